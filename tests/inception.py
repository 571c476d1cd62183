"""A random network in the file format of Inception's TorchScript, as clean-fid reads it: 2,048 features, 1,008 classes."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FILE = "inception-2015-12-05.pt"


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(F.adaptive_avg_pool2d(x, 8)).relu().flatten(1)


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = _Layers()
        self.output = nn.Linear(2048, 1008)

    def forward(self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False) -> Tensor:
        x = F.interpolate(img.float(), size=(299, 299), mode="bilinear")
        features = self.layers((x - 128) / 128)
        if return_features:
            return features
        logits = features @ self.output.weight.t()
        if not no_output_bias:
            logits = logits + self.output.bias
        return logits.softmax(dim=1)


def save_random_inception(folder: Path) -> Path:
    """Write it to ``folder`` under the name that clean-fid looks for."""
    torch.manual_seed(0)
    network = _Network().eval()
    nn.init.normal_(network.layers.mix.weight, std=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(network).save(str(folder / FILE))
    return folder / FILE
