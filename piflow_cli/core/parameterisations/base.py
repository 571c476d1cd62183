"""The interface of parameterisations, and that of flow models, which need none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..tensors import per_sample

# Timesteps of diffusers count from 0 to this.
TIMESTEPS = 1000


class Affine(NamedTuple):
    """A velocity as u = ``gain`` * what the network predicts + ``skip`` * x; both (B,) float64."""

    gain: Tensor
    skip: Tensor

    def velocity(self, prediction: Tensor, x: Tensor) -> Tensor:
        """Velocities (B, C, *S) of predictions at states ``x`` (B, C, *S), in the dtype of ``x``."""
        return torch.addcmul(per_sample(self.skip, x) * x, per_sample(self.gain, x), prediction.to(x.dtype))


@dataclass(frozen=True)
class Parameterisation:
    """A network that is told x = (1 - sigma) x_0 + sigma eps and sigma, and predicts u = eps - x_0.

    Others have a change of variables: at each noise level both are the same ODE (Kingma et al., arXiv 2107.00630;
    Lipman et al., arXiv 2412.06264, section 4.8). Noise levels ``sigma`` (B,) are those of the flow, any floating
    dtype; results are float64. Beyond ``noisiest`` all is as it is there.

    Attributes:
        flow: whether it is that of flow models.
        noisiest: the noise level of the noisiest state that the network knows, at which sampling begins.
        start_scale: the factor that makes of unit noise the state at which the stock pipelines begin.
    """

    flow: ClassVar[bool] = True

    @property
    def noisiest(self) -> float:
        return 1.0

    @property
    def start_scale(self) -> float:
        return 1.0

    @property
    def largest_gain(self) -> float:
        """How much larger what a student predicts is in a velocity at the noisiest level."""
        return 1.0

    def first_state(self, noise: Tensor) -> Tensor:
        """The state (B, C, *S) at the noisiest level that sampling begins with, of unit ``noise``."""
        return noise if self.start_scale == 1 else self.start_scale * noise

    def timestep(self, sigma: Tensor) -> Tensor:
        """Timesteps (B,) as schedulers of diffusers hand them to the network."""
        return sigma.double() * TIMESTEPS

    def input_scale(self, sigma: Tensor) -> Tensor:
        """The factors (B,) that make of states what the network takes."""
        return sigma.new_ones(sigma.shape).double()

    def affine(self, sigma: Tensor) -> Affine:
        """How velocities follow from predictions at these levels."""
        one = sigma.new_ones(sigma.shape).double()
        return Affine(one, one - one)

    def of_students(self, sigma: Tensor) -> Affine:
        """How velocities of a student follow from what its network predicts: as its teacher's, or with less gain."""
        return self.affine(sigma)
