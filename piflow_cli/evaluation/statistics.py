"""Distances between distributions, from the first two moments of their features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D) of features, float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Mean and unbiased covariance of features (N, D), N at least 2."""
    features = features.double()
    return Moments(features.mean(dim=0), torch.cov(features.T))


def frechet_distance(one: Moments, other: Moments) -> float:
    """Squared Frechet distance of two Gaussians, |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al., 1706.08500).

    The trace of the root is the sum of the singular values of C1^(1/2) C2^(1/2): real and non-negative by construction,
    also where covariances lack rank, which a matrix root of the product is not.
    """
    roots = [_square_root(part.covariance) for part in (one, other)]
    overlap = torch.linalg.svdvals(roots[0] @ roots[1]).sum()
    spread = one.covariance.trace() + other.covariance.trace() - 2 * overlap
    return max(0.0, ((one.mean - other.mean).square().sum() + spread).item())


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
