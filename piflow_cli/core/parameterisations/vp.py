"""Variance-preserving diffusion: the model's own state is a x_0 + b eps with a^2 + b^2 = 1 (DDPM, arXiv 2006.11239).

With x = (a x_0 + b eps) / (a + b) and sigma = b / (a + b) it is a flow: Euler steps there are those of DDIM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .base import TIMESTEPS, Affine, Parameterisation

# The first and the last beta of released models: DDPM and DiT, and Stable Diffusion.
BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}

# Near pure noise that of Stable Diffusion is 15.6 and DDPM's own 158; it is 2 where sigma is 0.5. 4 and 16 are worse:
# tests/benchmarks/claims_diffusion.py.
MOST_GAIN = 2.0


@dataclass(frozen=True)
class VariancePreserving(Parameterisation):
    """A network that predicts eps, x_0, or v = a eps - b x_0 (arXiv 2202.00512), at 1000 discrete times.

    ``schedule``: betas that rise linearly, or whose roots do. Between two times, and so at every noise level, the
    logarithm of b / a is linear. Below the first time the network is told that.
    """

    flow: ClassVar[bool] = False

    predicts: Literal["epsilon", "v", "x_0"]
    schedule: Literal["linear", "scaled_linear"]

    def log_ratios(self, device: torch.device | str = "cpu") -> Tensor:
        """ln(b / a) at each of the times, rising, (1000,) float64; computed where it is asked for, without a copy."""
        times = torch.arange(TIMESTEPS, dtype=torch.float64, device=device)
        # Sums of logarithms: one minus the product of (1 - beta) would lose digits at the first times.
        log_signal = torch.log1p(-self._beta(times)).cumsum(0)
        return 0.5 * (torch.log(-torch.expm1(log_signal)) - log_signal)

    @cached_property
    def noisiest(self) -> float:
        log_signal = sum(math.log1p(-self._beta(time)) for time in range(TIMESTEPS))
        return 1 / (1 + math.sqrt(math.exp(log_signal) / -math.expm1(log_signal)))

    @cached_property
    def quietest(self) -> float:
        """The noise level of the first time."""
        return 1 / (1 + math.sqrt((1 - self._beta(0)) / self._beta(0)))

    def _beta(self, time):
        """Beta at times, numbers or tensors."""
        power = 0.5 if self.schedule == "scaled_linear" else 1.0
        first, last = (value**power for value in BETAS[self.schedule])
        return (first + (last - first) * time / (TIMESTEPS - 1)) ** (1 / power)

    @property
    def start_scale(self) -> float:
        # Their own first state is unit noise.
        return ((1 - self.noisiest) ** 2 + self.noisiest**2) ** 0.5

    @property
    def largest_gain(self) -> float:
        if self.predicts == "epsilon":
            return min(1 / (1 - self.noisiest), MOST_GAIN)
        return 1 / (self.noisiest if self.predicts == "x_0" else self.start_scale)

    def timestep(self, sigma: Tensor) -> Tensor:
        """Times (B,) in [0, 999], fractions among them."""
        known = self.log_ratios(sigma.device)
        ratio = torch.logit(self._known(sigma).clamp(min=self.quietest))
        after = torch.searchsorted(known, ratio.contiguous()).clamp(1, TIMESTEPS - 1)
        below, above = known[after - 1], known[after]
        return after - (above - ratio) / (above - below)

    def input_scale(self, sigma: Tensor) -> Tensor:
        return 1 / self._length(self._known(sigma))

    def affine(self, sigma: Tensor) -> Affine:
        sigma = self._known(sigma)
        if self.predicts == "epsilon":
            return Affine(1 / (1 - sigma), -1 / (1 - sigma))
        if self.predicts == "x_0":
            sigma = sigma.clamp(min=self.quietest)
            return Affine(-1 / sigma, 1 / sigma)
        length = self._length(sigma)
        return Affine(1 / length, (2 * sigma - 1) / length**2)

    def of_students(self, sigma: Tensor) -> Affine:
        """As :meth:`affine`, but that x_0 = (x - sigma eps) / (1 - sigma) is no larger than MOST_GAIN times the noise.

        Near pure noise an error of eps is an error of x_0 a hundred times as large, and no learning rate fits both.
        """
        own = self.affine(sigma)
        if self.predicts != "epsilon":
            return own
        bounded = (1 - MOST_GAIN) / self._known(sigma).clamp(min=0.5)
        return Affine(own.gain.clamp(max=MOST_GAIN), torch.where(own.gain > MOST_GAIN, bounded, own.skip))

    def _known(self, sigma: Tensor) -> Tensor:
        return sigma.double().clamp(max=self.noisiest)

    @staticmethod
    def _length(sigma: Tensor) -> Tensor:
        """1 / (a + b)."""
        return ((1 - sigma) ** 2 + sigma**2).sqrt()
