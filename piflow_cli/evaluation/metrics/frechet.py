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


def frechet_distance_of_samples(one: Tensor, other: Tensor) -> float:
    """The same distance between features (N, D) and (M, D), which is quicker where N and M are less than D.

    Where covariances are A^T A and B^T B, the singular values of their roots' product are those of A B^T, (N, M).

    Raises RunError where a side has less than two, or any is not finite.
    """
    (mean, centred), (other_mean, other_centred) = _centred(one), _centred(other)
    overlap = torch.linalg.svdvals(centred @ other_centred.T).sum()
    spread = centred.square().sum() + other_centred.square().sum() - 2 * overlap
    return max(0.0, ((mean - other_mean).square().sum() + spread).item())


def effective_dimension(samples: Tensor) -> float:
    """The number of equal standard deviations with the same sum, and sum of squares, as those of features (N, D)."""
    _, centred = _centred(samples)
    values = torch.linalg.svdvals(centred)
    return (values.sum().square() / values.square().sum().clamp(min=1e-300)).item()


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) of features (N, D), and what remains of them over the root of N - 1, float64."""
    if len(features) < 2:
        raise RunError(f"{len(features)} features have no covariance", "give at least two pictures")
    if not all_finite(features):
        raise RunError("features are not finite", "look at the pictures: a student that has diverged makes such ones")
    features = features.double()
    mean = features.mean(dim=0)
    return mean, (features - mean) / math.sqrt(len(features) - 1)


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
