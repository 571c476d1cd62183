"""Variance-preserving diffusion: the model's own state is a x_0 + b eps with a^2 + b^2 = 1 (DDPM, arXiv 2006.11239).

With x = (a x_0 + b eps) / (a + b) and sigma = b / (a + b) it is a flow: Euler steps there are those of DDIM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..tensors import to_device
from .base import TIMESTEPS, Affine, Parameterisation

# The first and the last beta of released models: DDPM and DiT, and Stable Diffusion.
BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}


@dataclass(frozen=True)
class VariancePreserving(Parameterisation):
    """A network that predicts eps, x_0, or v = a eps - b x_0 (arXiv 2202.00512), at 1000 discrete times.

    ``schedule``: betas that rise linearly, or whose roots do. Between two times, and so at every noise level, the
    logarithm of b / a is linear. Below the first time the network is told that.
    """

    flow: ClassVar[bool] = False

    predicts: Literal["epsilon", "v", "x_0"]
    schedule: Literal["linear", "scaled_linear"]

    @cached_property
    def log_ratios(self) -> tuple[float, ...]:
        """ln(b / a) at each of the times, rising."""
        power = 0.5 if self.schedule == "scaled_linear" else 1.0
        first, last = (value**power for value in BETAS[self.schedule])
        betas = ((first + (last - first) * time / (TIMESTEPS - 1)) ** (1 / power) for time in range(TIMESTEPS))
        # Sums of logarithms: one minus the product of (1 - beta) would lose digits at the first times.
        signals = accumulate(math.log1p(-beta) for beta in betas)
        return tuple(0.5 * (math.log(-math.expm1(signal)) - signal) for signal in signals)

    @cached_property
    def noisiest(self) -> float:
        return _level(self.log_ratios[-1])

    @property
    def start_scale(self) -> float:
        # Their own first state is unit noise.
        return ((1 - self.noisiest) ** 2 + self.noisiest**2) ** 0.5

    def timestep(self, sigma: Tensor) -> Tensor:
        """Times (B,) in [0, 999], fractions among them."""
        # A plain copy would make the host wait for the device.
        known = to_device(torch.tensor(self.log_ratios, dtype=torch.float64, device="cpu"), sigma.device)
        ratio = torch.logit(self._known(sigma)).clamp(self.log_ratios[0], self.log_ratios[-1])
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
            sigma = sigma.clamp(min=_level(self.log_ratios[0]))
            return Affine(-1 / sigma, 1 / sigma)
        length = self._length(sigma)
        return Affine(1 / length, (2 * sigma - 1) / length**2)

    def _known(self, sigma: Tensor) -> Tensor:
        return sigma.double().clamp(max=self.noisiest)

    @staticmethod
    def _length(sigma: Tensor) -> Tensor:
        """1 / (a + b)."""
        return ((1 - sigma) ** 2 + sigma**2).sqrt()


def _level(log_ratio: float) -> float:
    """sigma = b / (a + b) of ln(b / a)."""
    return 1 / (1 + math.exp(-log_ratio))
