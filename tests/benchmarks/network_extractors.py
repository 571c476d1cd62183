"""The extractors of the throughput benchmark: those of `piflow eval` at full size, with random weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from piflow_cli.evaluation.extractors import open_extractor
from piflow_cli.evaluation.extractors.base import Extractor
from piflow_cli.evaluation.generate import FeatureFunction
from piflow_cli.sampling.request import ImageSpec

FILE = "inception-2015-12-05.pt"


class FeaturesAndClasses(nn.Module):
    """What clean-fid calls, around ``layers``: pictures (B, 3, 299, 299) around [-1, 1] → (B, 2048)."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.output = nn.Linear(2048, 1008)

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        x = F.interpolate(img.float(), size=(299, 299), mode="bilinear")
        features = self.layers((x - 128) / 128)
        if return_features:
            return features
        logits = features @ self.output.weight.t()
        if not no_output_bias:
            logits = logits + self.output.bias
        return logits.softmax(dim=1)


class Trunk(nn.Module):
    """Inception v3 up to its 2,048 features, as torchvision has it: the layers of the
    network of 2015, but for three poolings."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import inception_v3

        network = inception_v3(weights=None, init_weights=False, aux_logits=False, transform_input=False)
        self.layers = nn.Sequential(
            *[layer for name, layer in network.named_children() if name not in ("fc", "dropout", "AuxLogits")]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten(1)


class SmallNetwork(nn.Module):
    """Pictures (B, 1, 8, 8) → features (B, 64) by many passes of a small
    network: nothing but short calls from Python."""

    def __init__(self, repeats: int, device: torch.device) -> None:
        super().__init__()
        self.repeats, self.device = repeats, device
        self.network = nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.to(device).requires_grad_(False)

    def forward(self, pictures: Tensor, specs: Sequence[ImageSpec]) -> Tensor:
        for _ in range(self.repeats):
            found = self.network(pictures.to(self.device))
        return found.cpu()


def features_by(extractor: Extractor) -> FeatureFunction:
    return lambda pictures, specs: extractor.features(pictures)


def inception(folder: Path, device: torch.device) -> FeatureFunction:
    """Inception in TorchScript through clean-fid: its resizing and its wrapper, the weights random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(FeaturesAndClasses(Trunk()).eval()).save(str(folder / FILE))
    return features_by(open_extractor("inception", device, folder / FILE, trust=True))


def dinov2(folder: Path, device: torch.device) -> FeatureFunction:
    """DINOv2 of the size of dinov2-small, through transformers."""
    from transformers import Dinov2Config, Dinov2Model

    configuration = Dinov2Config(hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=518)
    Dinov2Model(configuration).save_pretrained(folder / "dinov2")
    return features_by(open_extractor(f"dinov2:{folder / 'dinov2'}", device))
