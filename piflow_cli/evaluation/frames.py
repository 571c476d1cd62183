"""Videos for what sees pictures: extractors, perceptual distances and texts see frame by frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError
from .extractors import Extractor
from .extractors.moments import MOST_FEATURES


def as_pictures(shown: Tensor) -> Tensor:
    """Pictures (B, C, H, W) as they are; videos (B, C, F, H, W) as their frames (B F, C, H, W), video by video."""
    return shown if shown.ndim == 4 else shown.movedim(2, 1).flatten(0, 1)


def by_frame(number: Callable[..., Tensor], *sides: Tensor) -> Tensor:
    """``number`` of pictures (B, C, H, W), one of each side → (B,); of videos (B, C, F, H, W) the mean over frames."""
    found = number(*map(as_pictures, sides))
    return found.unflatten(0, (len(sides[0]), -1)).mean(dim=1)


@dataclass(frozen=True)
class OverFrames:
    """The extractor ``inner`` of pictures on videos (B, 3, F, H, W): features (B, 2 D), see :func:`over_time`."""

    inner: Extractor

    @property
    def name(self) -> str:
        return f"{self.inner.name} over frames"

    @property
    def resize(self) -> str:
        return self.inner.resize

    @property
    def identity(self) -> str:
        return self.inner.identity

    def features(self, images: Tensor) -> Tensor:
        found = over_time(self.inner.features(as_pictures(images)).unflatten(0, (len(images), -1)))
        if found.shape[1] > MOST_FEATURES:
            height, width = images.shape[-2:]
            raise UsageError(
                f"{self.name}: videos of {width} x {height} have {found.shape[1]:,} features, and their covariance the"
                " square of that many numbers",
                "--extractor inception, which resizes",
            )
        return found

    def logits(self, features: Tensor) -> Tensor | None:
        return None


def over_time(frames: Tensor) -> Tensor:
    """Features (B, 2 D) of videos from those of their ``frames`` (B, F, D): what is seen, and how much it changes.

    The first half is the mean over frames; the second the root mean square, feature by feature, of the difference of
    one frame and the next. A still has a second half of zeros, and so has a video of one frame. The form is ours; that
    frames are seen by a network of pictures, and space and time apart, is from STREAM (Kim et al., arXiv 2403.09669).
    """
    changes = frames.diff(dim=1).square().sum(dim=1) / max(1, frames.shape[1] - 1)
    return torch.cat([frames.mean(dim=1), changes.sqrt()], dim=1)
