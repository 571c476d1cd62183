"""From the Frechet distance of few samples to that of many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from ...errors import UsageError
from ..distributions import TARGET
from ..extractors.moments import Moments, moments
from .frechet import effective_dimension, frechet_distance, frechet_distance_of_samples, square_root

GROUPS = 20
# Samples for each effective dimension of the features from which nine intervals of ten hold: found on Gaussians whose
# i-th variance is 1, 1/i and 1/i^2. With fewer the distance does not fall as 1/N yet.
SAMPLES_A_DIMENSION = 6


@dataclass(frozen=True)
class FrechetInterval:
    """The interval of the Frechet distance of ``at`` samples, estimated from ``count`` of them.

    ``measured`` is the distance of the samples at hand, biased upwards because they are few; ``estimate``
    leaves out the part of that bias which ``at`` samples do not have, ``infinite`` all of it. [``low``,
    ``high``] holds the value of ``at`` samples with probability ``level``, where there are ``enough`` samples:
    with fewer the true value mostly lies above it.
    """

    measured: float
    estimate: float
    low: float
    high: float
    infinite: float
    count: int
    at: int
    level: float
    enough: int


def frechet_interval(
    features: Tensor,
    reference: Moments | Tensor,
    *,
    at: int = TARGET,
    groups: int = GROUPS,
    level: float = 0.95,
    seed: int = 0,
) -> FrechetInterval:
    """The Frechet distance to a reference that ``at`` samples would show, judged from ``features`` (N, D).

    The expected distance is linear in 1/N (Chong and Forsyth, arXiv 1911.07023), so the distances without each of G
    groups in turn tell both its slope and its spread: the delete-a-group jackknife (Quenouille 1956; Tukey 1958; for
    groups of unequal size Busing, Meijer and van der Leeden 1999).

    Args:
        reference: moments that stay as they are; or features (N, D) from the same noise, row by row, of which there
            would be ``at`` as well: what both sides owe to the noise cancels, so a row is left out of both at once.
        at: how many samples the interval is for; at least N, and the interval is the measured distance's own where it
            is N.
        seed: of the partition into groups.

    Raises:
        UsageError: fewer samples than groups.
        RunError: a value is not finite.
    """
    count = len(features)
    if count < groups:
        raise UsageError(f"{count} pictures are too few for an error bar", f"take more: --num-images {groups}")
    at = max(at, count)
    distance: _Downdating | _Paired = (
        _Paired(features, reference) if isinstance(reference, Tensor) else _Downdating(features, reference)
    )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    parts = order.tensor_split(groups)
    whole = distance.without(order[:0])
    # A pseudo-value is what the distance would be if the group stood for all samples, without the bias in 1/N.
    shares = [count / len(part) for part in parts]
    pseudo = [share * whole - (share - 1) * distance.without(part) for share, part in zip(shares, parts)]
    infinite = sum(value / share for value, share in zip(pseudo, shares))
    variance = sum((value - infinite) ** 2 / (share - 1) for value, share in zip(pseudo, shares)) / groups
    estimate = infinite + (whole - infinite) * count / at
    # The `at` samples are others than these, and have a spread of their own.
    width = _student_quantile(level, groups - 1) * math.sqrt(variance * (1 + count / at))
    low, high = (max(0.0, estimate + side * width) for side in (-1, 1))
    return FrechetInterval(whole, max(0.0, estimate), low, high, max(0.0, infinite), count, at, level, distance.enough)


def enough_samples(reference: Moments | Tensor) -> int:
    """The number of samples from which the interval around the distance to ``reference``, or features (N, D), holds."""
    if isinstance(reference, Tensor):
        return math.ceil(SAMPLES_A_DIMENSION * effective_dimension(reference))
    return _enough(square_root(reference.covariance))


def _enough(root: Tensor) -> int:
    """The effective dimension of a covariance, from its root (D, D).

    It is the number of equal standard deviations with the same sum, and sum of squares.
    """
    dimension = root.trace().square() / root.square().sum().clamp(min=1e-300)
    return math.ceil(SAMPLES_A_DIMENSION * dimension.item())


class _Paired:
    """Frechet distances between the remaining rows of two sets of features (N, D)."""

    def __init__(self, features: Tensor, reference: Tensor) -> None:
        if features.shape != reference.shape:
            raise UsageError(
                f"features {tuple(features.shape)} and {tuple(reference.shape)} are not of the same noise",
                "generate both from the same seeds",
            )
        self.features, self.reference = features, reference
        self.few = len(features) < features.shape[1]
        self.enough = enough_samples(reference if self.few else moments(reference))

    def without(self, left_out: Tensor) -> float:
        """The distance without the rows ``left_out``."""
        kept = torch.ones(len(self.features), dtype=torch.bool)
        kept[left_out] = False
        features, reference = self.features[kept], self.reference[kept]
        if self.few:
            return frechet_distance_of_samples(features, reference)
        return frechet_distance(moments(features), moments(reference))


class _Downdating:
    """Frechet distances to ``reference`` of all but a few of some features, each for one eigendecomposition."""

    def __init__(self, features: Tensor, reference: Moments) -> None:
        self.reference = reference
        self.mean = moments(features).mean
        self.centred = features.double() - self.mean
        root = square_root(reference.covariance)
        self.enough = _enough(root)
        # The singular values of C^(1/2) R, R the reference's root, are the roots of the eigenvalues of R C R.
        self.rotated = self.centred @ root
        self.scatter = self.rotated.T @ self.rotated
        self.squares = self.centred.square().sum()

    def without(self, left_out: Tensor) -> float:
        """The distance without the rows ``left_out``."""
        centred, rotated = self.centred[left_out], self.rotated[left_out]
        remaining = len(self.centred) - len(left_out)
        # The centred rows sum to zero, so the rest sums to minus the rows left out.
        shift, turned = -centred.sum(dim=0) / remaining, -rotated.sum(dim=0) / remaining
        scatter = self.scatter - rotated.T @ rotated - remaining * torch.outer(turned, turned)
        overlap = torch.linalg.eigvalsh(scatter / (remaining - 1)).clamp(min=0).sqrt().sum()
        trace = (self.squares - centred.square().sum() - remaining * shift.square().sum()) / (remaining - 1)
        offset = (self.mean + shift - self.reference.mean).square().sum()
        return (offset + trace + self.reference.covariance.trace() - 2 * overlap).item()


def _student_quantile(level: float, freedom: int) -> float:
    """Two-sided quantile of Student's t, to 1e-3 from 10 on (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
