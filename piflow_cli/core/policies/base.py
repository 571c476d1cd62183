"""What every policy can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

from torch import Tensor

from ..tensors import per_sample, working
from ..timegrid import to_sigma

SIGMA_FLOOR = 1e-6


class Policy(ABC):
    """Velocities below a source state, without the network (pi-Flow, arXiv 2510.14974, section 3).

    A policy belongs to one network evaluation at (``x_src``, ``raw_src``): ``x_src`` (B, C, *S), ``raw_src`` (B,) raw
    times, ``shift`` the map from raw time to sigma. Times are computed in float64, states in float32.
    """

    x_src: Tensor
    raw_src: Tensor
    shift: float

    @abstractmethod
    def posterior_mean(self, x: Tensor, raw: Tensor) -> Tensor:
        """The x_0 (B, C, *S) that the policy expects at states ``x`` (B, C, *S) and raw times ``raw`` (B,)."""

    @abstractmethod
    def detach(self) -> Policy:
        """The same policy, cut from the graph of the network."""

    def velocity(self, x: Tensor, raw: Tensor) -> Tensor:
        """Velocity u = dx / dsigma = (x - x_0) / sigma at states ``x`` (B, C, *S), raw times (B,) not above the source."""
        x = working(x)
        return (x - self.posterior_mean(x, raw)) / per_sample(self.sigma(raw), x)

    def sigma(self, raw: Tensor) -> Tensor:
        """Noise level (B,) float64 of raw times, kept off zero, where velocities have no finite form."""
        return to_sigma(raw.double(), self.shift).clamp(min=SIGMA_FLOOR)

    @cached_property
    def sigma_src(self) -> Tensor:
        """Noise level of the source, (B,) float64."""
        return self.sigma(self.raw_src)
