"""Raw pixels as features: for pictures of a few pixels, whose distribution can be compared as it is."""

from __future__ import annotations

from torch import Tensor


class Pixels:
    """Every pixel is a feature, neither clipped nor rounded: D = C·H·W."""

    name = "pixels"
    resize = "none"
    identity = ""

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1).float().cpu()

    def logits(self, features: Tensor) -> Tensor | None:
        return None
