"""Frechet distances between distributions of features, from their first two moments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.tensors import all_finite
from ...errors import RunError
from ..extractors.moments import NEGATIVE

if TYPE_CHECKING:
    from ..extractors.moments import Moments


def frechet_distance(one: Moments, other: Moments) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the squared Frechet distance of two Gaussians (arXiv 1706.08500).

    The trace of the root is the sum of the singular values of C1^(1/2) C2^(1/2): real and non-negative by construction,
    also where covariances lack rank, which a matrix root of the product is not.

    Raises:
        RunError: a moment is not finite, or a covariance has negative eigenvalues, whose roots would be complex.
    """
    roots = [square_root(part.covariance) for part in (one, other)]
    overlap = torch.linalg.svdvals(roots[0] @ roots[1]).sum()
    spread = one.covariance.trace() + other.covariance.trace() - 2 * overlap
    distance = ((one.mean - other.mean).square().sum() + spread).item()
    if not math.isfinite(distance):
        raise RunError("the mean of the features is not finite", "make the statistics again")
    return max(0.0, distance)


def square_root(covariance: Tensor) -> Tensor:
    """The symmetric root (D, D) of a covariance; raises RunError where it is not finite, or none."""
    if not all_finite(covariance):
        raise RunError("the covariance of the features is not finite", "make the statistics again")
    values, vectors = torch.linalg.eigh(covariance)
    if values[0] < -NEGATIVE * values[-1].abs():
        raise RunError(
            f"a covariance has the eigenvalue {values[0].item():.3g}, whose root is complex",
            "make the statistics again, in float64",
        )
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
