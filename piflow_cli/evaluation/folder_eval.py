"""A folder of pictures against a reference, without any model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .measures import Measure

if TYPE_CHECKING:
    import torch

    from ..console import Console


@dataclass(frozen=True)
class FolderRequest:
    """`piflow eval --images DIR --reference REFERENCE`.

    ``metrics``: of fid, kid, is, pr, patch-fid; None is what the extractor and the installed packages allow.
    ``count``: how many pictures to take of each side; None is all.
    """

    images: Path
    reference: str
    extractor: str = "inception"
    metrics: tuple[str, ...] | None = None
    count: int | None = None
    batch_size: int = 64
    inception_weights: Path | None = None


def evaluate_folder(request: FolderRequest, device: torch.device, console: Console) -> list[Measure]:
    """The numbers of a folder of pictures; cheap inputs are looked at first.

    Raises:
        UsageError: whatever is wrong with a folder, the reference or the metrics.
        RunError: weights or packages that are missing, damaged files.
    """
    raise NotImplementedError
