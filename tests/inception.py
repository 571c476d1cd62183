"""A random network in the file format of Inception's TorchScript, as clean-fid
reads it: 2,048 features, 1,008 classes."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from network_extractors import FILE, FeaturesAndClasses
from torch import Tensor, nn
from torch.nn import functional as F


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(F.adaptive_avg_pool2d(x, 8)).relu().flatten(1)


def save_random_inception(folder: Path) -> Path:
    """Write it to ``folder`` under the name that clean-fid looks for."""
    torch.manual_seed(0)
    layers = _Layers()
    nn.init.normal_(layers.mix.weight, std=0.5)
    network = FeaturesAndClasses(layers).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(network).save(str(folder / FILE))
    return folder / FILE
