"""Mean and covariance of features, gathered batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...core.tensors import all_finite
from ...errors import RunError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Below minus this share of the largest eigenvalue, a negative one is no rounding (float32 statistics included), nor is
# a difference of two numbers across the diagonal above this share of the largest number.
NEGATIVE = 1e-4
# Eigenvalues of twice as many features take eight times as long, and at this size they take minutes already.
MOST_FEATURES = 1 << 14


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D) of features, float64."""

    mean: Tensor
    covariance: Tensor


class MomentAccumulator:
    """Moments of features that come in batches, in constant memory.

    Mean and scatter are updated batch by batch (Chan, Golub and LeVeque 1979), which loses no digits where the mean is
    large against the spread, as sums of squares do.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None

    def add(self, features: Tensor) -> None:
        """Take in features (B, D); raises RunError where any is not finite."""
        if not all_finite(features):
            raise RunError(
                "features are not finite", "look at the pictures: a student that has diverged makes such ones"
            )
        if len(features):
            features = features.double()
            mean = features.mean(dim=0)
            centred = features - mean
            self._merge(len(features), mean, centred.T @ centred)

    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self._mean is None or self._scatter is None:
            self.count, self._mean, self._scatter = count, mean, scatter
            return
        total = self.count + count
        shift = mean - self._mean
        self._scatter += scatter + torch.outer(shift, shift) * (self.count * count / total)
        self._mean = self._mean + shift * (count / total)
        self.count = total

    def moments(self) -> Moments:
        """Mean and unbiased covariance of everything so far; raises RunError below two."""
        if self._mean is None or self._scatter is None or self.count < 2:
            raise RunError(f"{self.count} features have no covariance", "give at least two pictures")
        return Moments(self._mean.clone(), self._scatter / (self.count - 1))


def moments(features: Tensor) -> Moments:
    """Mean and unbiased covariance of features (N, D); raises RunError for fewer than two, or any not finite."""
    accumulator = MomentAccumulator()
    accumulator.add(features)
    return accumulator.moments()


def moments_of_arrays(mean: NDArray, covariance: NDArray, source: str) -> Moments:
    """Moments of NumPy arrays (D,) and (D, D), as files hold them; ``source`` is for messages.

    Raises:
        UsageError: other shapes, or complex numbers.
        RunError: values that are not finite, or no covariance.
    """
    import numpy as np

    check_shapes(mean.shape, covariance.shape, source)
    if np.iscomplexobj(mean) or np.iscomplexobj(covariance):
        raise UsageError(
            f"{source} has complex numbers", "make the statistics again; moments of real features are real"
        )
    moments = Moments(*(torch.from_numpy(array.astype(np.float64)) for array in (mean, covariance)))
    check_moments(moments, source)
    return moments


def check_shapes(mean: Sequence[int], covariance: Sequence[int], source: str) -> None:
    """Raise UsageError unless these are shapes (D,) and (D, D) of moments, with D up to MOST_FEATURES."""
    if len(mean) != 1 or tuple(covariance) != (mean[0], mean[0]):
        raise UsageError(
            f"{source}: shapes {tuple(mean)} and {tuple(covariance)} are no mean and covariance",
            "name other statistics",
        )
    if not 0 < mean[0] <= MOST_FEATURES:
        raise UsageError(
            f"{source} is of {mean[0]:,} features; between 1 and {MOST_FEATURES:,} can be compared, in minutes",
            "name other statistics",
        )


def check_moments(moments: Moments, source: str) -> None:
    """Raise RunError unless all is finite and the covariance symmetric, with no negative eigenvalue but by rounding."""
    again = "make the statistics again, in float64"
    if not all(map(all_finite, moments)):
        raise RunError(f"{source} has values that are not finite", again)
    covariance = moments.covariance
    if (covariance - covariance.T).abs().max() > NEGATIVE * covariance.abs().max():
        raise RunError(f"{source}: its covariance is not symmetric", again)
    values = torch.linalg.eigvalsh(covariance)
    if values[0] < -NEGATIVE * values[-1].abs():
        raise RunError(
            f"{source}: its covariance has the eigenvalue {values[0].item():.3g}, and a covariance has no negative one",
            again,
        )
