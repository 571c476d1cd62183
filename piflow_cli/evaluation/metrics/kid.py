"""The kernel distance of features (KID)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import Tensor

from ..distributions import Measure, Sides, need_pictures
from ..extractors.clean_fid import clean_fid_module


def kid(sides: Sides) -> list[Measure]:
    return [sides.number("kid", kernel_distance(*sides.features("KID")))]


def kernel_distance(features: Tensor, reference: Tensor, seed: int = 0) -> float:
    """KID of features (N, D) and (M, D): unbiased squared MMD under (x·y / D + 1)^3 (arXiv 1801.01401).

    By clean-fid: the mean over 100 random subsets of at most 1,000 of each. ``seed`` is of the subsets. It can be
    negative.

    Raises:
        UsageError: fewer than two of either.
        RunError: clean-fid is not installed.
    """
    need_pictures(2, "KID", features, reference)
    distance = clean_fid_module("fid").kernel_distance
    with _numpy_seeded(seed):
        return distance(features.double().numpy(), reference.double().numpy())


@contextmanager
def _numpy_seeded(seed: int) -> Generator[None]:
    """NumPy's global generator, which clean-fid draws from, seeded inside and as it was outside."""
    import numpy as np

    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
