"""8-bit pictures and their resizing, as networks expect them that were trained on files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...core.tensors import all_finite, to_device
from ...errors import RunError
from ...system.devices import usable_cores
from .base import in_batches

BATCH = 32
RESIZERS = min(8, usable_cores())


class EightBitExtractor(ABC):
    """A network that was trained on files: it gets 8-bit pictures, BATCH at a time."""

    def features(self, images: Tensor) -> Tensor:
        """As every :class:`~piflow_cli.evaluation.extractors.base.Extractor`."""
        return in_batches(quantised(images), BATCH, self.features_of_levels)

    @abstractmethod
    def features_of_levels(self, levels: Tensor) -> Tensor:
        """Features (B, D) of pictures (B, 3, H, W) uint8."""


def quantised(images: Tensor) -> Tensor:
    """Pictures (B, 1 or 3, H, W) around [-1, 1] → (B, 3, H, W) uint8 as in a PNG, on the same device.

    Half a grey level matters: a metric must not tell samples in memory from the same samples on disk. Raises RunError
    where a value is not finite: rounded, it would pass for black.
    """
    if not all_finite(images):
        raise RunError("pictures have values that are not finite", "look at the student: it has diverged")
    levels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.expand(-1, 3, -1, -1)


def resized_by(resize: Callable[[NDArray], NDArray], images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) uint8 → (B, 3, h, w) float32 on the CPU; ``resize`` maps arrays (H, W, 3)."""
    arrays = images.permute(0, 2, 3, 1).cpu().numpy()
    # Pillow lets other threads run while it resizes.
    with ThreadPoolExecutor(RESIZERS) as pool:
        pictures = list(pool.map(resize, arrays))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().contiguous()


def resized_to(side: int) -> str:
    """The resize mode of :func:`resized`, in words."""
    return f"{side} (bicubic, antialiased, float)"


def resized(levels: Tensor, side: int, device: torch.device) -> Tensor:
    """Pictures (B, 3, H, W) uint8 of any shape → (B, 3, side, side) float32 in [0, 1] on ``device``."""
    pictures = to_device(levels, device).float() / 255
    return F.interpolate(pictures, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
