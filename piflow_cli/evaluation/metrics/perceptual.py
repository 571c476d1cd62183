"""LPIPS (Zhang et al., arXiv 1801.03924), where its weights are on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.tensors import to_device
from ...system.files import files_digest

# The package lpips brings its linear layers; the network under them is torchvision's, which keeps it in torch.hub's
# cache. The name ends with the first digits of the SHA-256.
WEIGHTS = "alexnet-owt-7be5be79.pth"
# AlexNet's strides leave nothing of smaller pictures.
SMALLEST = 64
BATCH = 32


def lpips_weights() -> Path:
    """The path of AlexNet's weights, whether or not they are there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


def why_no_lpips() -> str | None:
    """The reason why LPIPS cannot be computed here; None where it can."""
    if find_spec("lpips") is None:
        return 'LPIPS needs pip install "piflow[eval]"'
    return None if (fault := weights_fault()) is None else f"LPIPS needs {fault}"


def weights_fault() -> str | None:
    """What is wrong with AlexNet's weights on this machine; None where they are there and whole."""
    if not lpips_weights().is_file():
        return f"torchvision's AlexNet at {lpips_weights()}"
    digest = files_digest([lpips_weights()])
    if not digest.startswith(expected := Path(WEIGHTS).stem.rpartition("-")[2]):
        return (
            f"torchvision's AlexNet, and {lpips_weights()} is damaged: its SHA-256 begins with {digest[:8]}, not"
            f" {expected}"
        )
    return None


def open_lpips(device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    """A function to distances (B,), float32 on the CPU, of two batches of pictures; None where LPIPS is not at hand.

    Pictures are (B, 1 or 3, H, W) in [-1, 1].

    Version 0.1 on AlexNet. Nothing is downloaded. Pictures with a side below 64 are enlarged to it, bilinearly.
    """
    if why_no_lpips() is not None:
        return None
    return distances_by(_lpips(), device)


def distances_by(network: nn.Module, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The function to distances of a ``network`` of the package lpips, which runs on ``device``."""
    network = network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def distances(ours: Tensor, theirs: Tensor) -> Tensor:
        sides = to_device((_large_enough(ours), _large_enough(theirs)), device)
        pairs = zip(*(side.split(BATCH) for side in sides))
        return torch.cat([network(one, other).flatten().float() for one, other in pairs]).cpu()

    return distances


def layers_of(stored: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
    """The tensors of a network of torchvision's, under the names they have in ``network`` of the package lpips.

    The package cuts torchvision's features into slices, and numbers layers in them as torchvision does.
    """
    return {name: stored[f"features.{name.partition('.')[2]}"] for name in network.net.state_dict()}


def _lpips() -> nn.Module:
    """LPIPS with AlexNet's weights filled in here: torchvision would load them as a pickle, whatever that does."""
    with warnings.catch_warnings():
        # The package calls torchvision by arguments that are deprecated.
        warnings.simplefilter("ignore", UserWarning)
        network = import_module("lpips").LPIPS(net="alex", pnet_rand=True, verbose=False)
    stored = torch.load(lpips_weights(), map_location="cpu", weights_only=True)
    network.net.load_state_dict(layers_of(stored, network))
    return network


def _large_enough(pictures: Tensor) -> Tensor:
    pictures = pictures.float().expand(-1, 3, -1, -1)
    shortest = min(pictures.shape[-2:])
    if shortest >= SMALLEST:
        return pictures
    return F.interpolate(pictures, scale_factor=SMALLEST / shortest, mode="bilinear")
