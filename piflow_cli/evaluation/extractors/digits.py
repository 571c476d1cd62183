"""The shipped classifier of digits as an extractor: it needs no download."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.tensors import to_device
from ...errors import UsageError
from ...system.files import identity_of
from .base import Opening, in_batches
from .digits_classifier import load_classifier, shipped_classifier

SIDE = 8
BATCH = 1024


class DigitsClassifier:
    """The 64 features before the classes of a network that was trained on the digits (99 % right)."""

    name = "digits-classifier"
    resize = "none"

    def __init__(self, device: torch.device) -> None:
        self.device, self.identity = device, identity_of([shipped_classifier()])
        self.network = load_classifier().to(device)

    def features(self, images: Tensor) -> Tensor:
        """Features of pictures (B, 1 or 3, 8, 8), neither clipped nor rounded; three channels are read as grey."""
        if images.shape[-2:] != (SIDE, SIDE):
            height, width = images.shape[-2:]
            raise UsageError(
                f"digits-classifier sees pictures of {SIDE} x {SIDE}, not {width} x {height}",
                "--extractor pixels, or inception",
            )
        grey = to_device(images.float(), self.device).mean(dim=1, keepdim=True)
        return in_batches(grey, BATCH, self.network.features)

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        return self.network.logits(features.to(self.device)).cpu()


def open_digits(opening: Opening) -> DigitsClassifier:
    return DigitsClassifier(opening.device)
