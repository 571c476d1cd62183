"""Scores other than the Frechet distance: kernel distance, Inception score, precision and recall, diversity."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PrecisionRecall(NamedTuple):
    """Shares of samples that lie among the reference, and of the reference that lies among the samples."""

    precision: float
    recall: float


def kernel_distance(features: Tensor, reference: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> float:
    """KID: unbiased squared MMD under the kernel (x·y/D + 1)^3, mean over random subsets (Binkowski et al., 1801.01401), by clean-fid."""
    raise NotImplementedError


def inception_score(logits: Tensor, splits: int = 10) -> float:
    """exp of the mean divergence of p(class | picture) from p(class), mean over splits (Salimans et al., arXiv 1606.03498)."""
    raise NotImplementedError


def precision_recall(features: Tensor, reference: Tensor, *, neighbours: int = 3, chunk: int = 1024) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al., arXiv 1904.06991)."""
    raise NotImplementedError


def diversity(features: Tensor, groups: Tensor) -> float:
    """Mean distance of two different samples of the same group, mean over the groups."""
    raise NotImplementedError
