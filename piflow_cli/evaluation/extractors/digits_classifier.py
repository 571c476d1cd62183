"""A small classifier of the UCI optical digits, whose features tell digits from digits better than pixels do."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from ...presets.folders import presets_root
from ...weights.digests import check_shipped
from ...weights.stored import read_safetensors

FILE = "classifier.safetensors"
CLASSES = 10
FEATURES = 64


class DigitsNet(nn.Module):
    """Three convolutions and a hidden layer, whose values are the features, for images (B, 1, 8, 8) in [-1, 1]."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 48, 3, padding=1, stride=2)
        self.third = nn.Conv2d(48, 64, 3, padding=1, stride=2)
        self.hidden = nn.Linear(64 * 4, FEATURES)
        self.classes = nn.Linear(FEATURES, CLASSES)
        self.dropout = nn.Dropout(dropout)

    def features(self, images: Tensor) -> Tensor:
        """(B, 64), smooth and unbounded: a rectifier would fill the features with zeros, which no Gaussian fits."""
        x = images
        for layer in (self.first, self.second, self.third):
            x = F.silu(layer(x))
        return self.hidden(self.dropout(x.flatten(1)))

    def logits(self, features: Tensor) -> Tensor:
        """(B, 10)."""
        return self.classes(F.silu(features))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images))


def shipped_classifier() -> Path:
    return presets_root() / "digits" / FILE


def load_classifier() -> DigitsNet:
    """The shipped classifier, in evaluation mode on the CPU; raises RunError where its file was changed."""
    check_shipped([shipped_classifier()])
    _, tensors = read_safetensors(shipped_classifier())
    network = DigitsNet()
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)
