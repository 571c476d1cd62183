"""EDM: denoisers of x_0 + s eps for noise of any deviation s, preconditioned (Karras et al., arXiv 2206.00364).

With x = (x_0 + s eps) / (1 + s) and sigma = s / (1 + s) it is a flow: Euler steps there are those of EDM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import TIMESTEPS, Affine, Parameterisation

# No log of zero at the data; released samplers end at 0.002.
LEAST_SIGMA = 1e-4


@dataclass(frozen=True)
class EDM(Parameterisation):
    """The raw network F of a denoiser D = c_skip x + c_out F(c_in x, c_noise), its table 1.

    ``deviation``: sigma_data; ``most``: sigma_max. Timesteps are 1000 c_noise, as those of other kinds are 1000 times
    what their networks count in.
    """

    flow: ClassVar[bool] = False

    deviation: float = 0.5
    most: float = 80.0

    @property
    def noisiest(self) -> float:
        return self.most / (1 + self.most)

    @property
    def start_scale(self) -> float:
        return self.noisiest

    @property
    def largest_gain(self) -> float:
        return self.deviation / math.hypot(self.noisiest, self.deviation * (1 - self.noisiest))

    def timestep(self, sigma: Tensor) -> Tensor:
        """1000 c_noise = 250 ln s."""
        sigma = self._known(sigma)
        return TIMESTEPS / 4 * (sigma.log() - (1 - sigma).log())

    def input_scale(self, sigma: Tensor) -> Tensor:
        """c_in (1 + s) = 1 / sqrt(sigma^2 + sigma_data^2 (1 - sigma)^2)."""
        return 1 / self._length(self._known(sigma))

    def affine(self, sigma: Tensor) -> Affine:
        """(x - D) / sigma, in which sigma cancels: nothing is divided by zero at the data."""
        sigma = self._known(sigma)
        length = self._length(sigma)
        return Affine(-self.deviation / length, (sigma - self.deviation**2 * (1 - sigma)) / length**2)

    def _known(self, sigma: Tensor) -> Tensor:
        return sigma.double().clamp(LEAST_SIGMA, self.noisiest)

    def _length(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.deviation**2 * (1 - sigma) ** 2).sqrt()
