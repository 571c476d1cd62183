"""Extractors of `piflow eval` on the GPU that is not there: their own code around networks without weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from piflow_cli.evaluation import overlap
from piflow_cli.evaluation.extractors import base, dino, efficientnet, inception, open_extractor
from piflow_cli.evaluation.metrics import clip_score, perceptual

DEVICE = torch.device("cuda")
# More than a network takes at once.
PICTURES = 40
TOKENS, SIDE = 77, 224


class Pooled(nn.Module):
    """In the place of Inception, which is a file of TorchScript: 2,048 numbers a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(F.adaptive_avg_pool2d(x, 8)).flatten(1)


class Headed(Pooled):
    """In the place of EfficientNet-Lite0, which need not be installed."""

    def forward_features(self, pictures: Tensor) -> Tensor:
        return self.mix(pictures)

    def forward_head(self, features: Tensor, pre_logits: bool) -> Tensor:
        return features.mean(dim=(2, 3))


class Compared(nn.Module):
    """In the place of the package lpips: a distance (B, 1, 1, 1) of two batches."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 8, 11, stride=4)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return (self.mix(one) - self.mix(other)).square().mean((1, 2, 3), keepdim=True)


def extractions(small: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """The extraction of features of pictures on the host, which folders hold, and on the device, which are made there.

    And LPIPS, of two batches on the device. ``small``: networks of transformers with one layer.
    """
    for name, side, features in extractors(small):
        yield f"features of a folder, {name}", lambda: features(torch.zeros(PICTURES, 3, side, side))
        # clean-fid resizes by Pillow, to which fake pictures show nothing.
        if name != "inception":
            made = torch.zeros(PICTURES, 3, side, side, device=DEVICE)
            yield f"features of samples, {name}", lambda: features(made)
    distances = lpips_of_no_weights()
    for side in (8, 256):
        pictures = torch.zeros(PICTURES, 1 if side < 64 else 3, side, side, device=DEVICE)
        yield f"features of pairs of side {side}, LPIPS", lambda: distances(pictures, pictures)
    yield "features beside generation", beside_generation


def beside_generation() -> None:
    """Raise AssertionError unless features are extracted on a stream that has waited for the pictures."""
    seen: list[tuple[str, int]] = []

    def waits(stream: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        seen.append(("waits", stream.cuda_stream))

    with mock.patch.object(torch.cuda.Stream, "wait_event", waits), overlap.Overlap(DEVICE) as beside:
        for _ in range(2):
            beside.submit(lambda: seen.append(("works", torch.cuda.current_stream().cuda_stream)))
    own, current = seen[0][1], torch.cuda.current_stream().cuda_stream
    assert own != current and seen == 2 * [("waits", own), ("works", own)], seen


def extractors(small: bool) -> Iterator[tuple[str, int, Callable[[Tensor], Tensor]]]:
    """Name, side of the pictures in pixels, and a function to features, of every extractor."""
    for name in ("pixels", "digits-classifier"):
        yield name, 8, open_extractor(name, DEVICE).features
    for name in ("inception", "inception-tf"):
        network = inception.Inception(Pooled(), "", name == "inception-tf", DEVICE)
        yield name, 32, network.features
    lite = efficientnet.EfficientNetLite0(Headed(), DEVICE)
    yield "efficientnet-lite0", 32, lite.features
    yield "centre patches", 300, base.centre_patches(network).features
    with without_files(small):
        seen, clip = dino.Dino("", DEVICE), clip_score.ClipScore("", DEVICE)
    yield "dinov2", 32, seen.features
    yield "clip", 32, lambda pictures: clip.scores(pictures, ["a red fox"] * len(pictures))


def lpips_of_no_weights() -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS on the package's own network, as it is made; a stand-in where the package is not installed."""

    def network() -> nn.Module:
        if find_spec("lpips") is None:
            return Compared()
        return import_module("lpips").LPIPS(net="alex", pnet_rand=True, pretrained=False, verbose=False)

    with mock.patch.multiple(perceptual, why_no_lpips=lambda: None, _lpips=network):
        return perceptual.open_lpips(DEVICE)


@contextlib.contextmanager
def without_files(small: bool) -> Iterator[None]:
    """Networks of transformers as their classes make them, and no files."""
    import transformers

    depth = {"num_hidden_layers": 1} if small else {}

    def network(kind: Any, folder: Path, device: torch.device) -> nn.Module:
        config = (
            transformers.CLIPConfig(text_config=depth, vision_config=depth)
            if kind is transformers.CLIPModel
            else transformers.Dinov2Config(image_size=518, patch_size=14, **depth)
        )
        return kind(config).eval().requires_grad_(False).to(device)

    def processed(text: list[str], images: list[Tensor], **options: Any) -> dict[str, Tensor]:
        tokens = torch.ones(len(text), TOKENS, dtype=torch.long)
        pictures = torch.zeros(len(images), 3, SIDE, SIDE)
        return {"input_ids": tokens, "attention_mask": tokens, "pixel_values": pictures}

    fakes = {
        "model_folder": lambda *given, **named: Path(),
        "load_network": network,
        "identity_of_place": lambda folder: "",
    }
    processor = SimpleNamespace(from_pretrained=lambda folder: processed)
    with (
        mock.patch.multiple(dino, **fakes),
        mock.patch.multiple(clip_score, **fakes),
        mock.patch.object(transformers, "CLIPProcessor", processor),
    ):
        yield
