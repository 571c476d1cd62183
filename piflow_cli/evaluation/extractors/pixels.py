"""Raw pixels as features: for pictures of a few pixels, whose distribution can be compared as it is."""

from __future__ import annotations

from torch import Tensor

from ...errors import UsageError
from .base import Opening
from .moments import MOST_FEATURES


class Pixels:
    """Every pixel is a feature, neither clipped nor rounded: D = C·H·W."""

    name = "pixels"
    resize = "none"
    identity = ""

    def features(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if (numbers := images[0].numel()) > MOST_FEATURES:
            raise UsageError(
                f"pixels: a picture of {width} x {height} has {numbers:,} of them, and their covariance the square of"
                " that many numbers",
                "--extractor inception, which resizes",
            )
        return images.flatten(1).float().cpu()

    def logits(self, features: Tensor) -> Tensor | None:
        return None


def open_pixels(opening: Opening) -> Pixels:
    return Pixels()
