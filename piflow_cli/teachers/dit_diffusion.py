"""Our DiT as a network that is no flow model: it predicts noise, v, or the residual of EDM."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..core.heads import HeadSite
from .base import Conditioning, Network
from .dit import DiTFamily


class DiffusionDiTFamily(DiTFamily):
    """As :class:`~piflow_cli.teachers.dit.DiTFamily`; in place of sigma the network is told timesteps / 1000."""

    def head_site(self, model: Network) -> HeadSite:
        return replace(super().head_site(model), gain=self.parameterisation.largest_gain)

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        scaled, timestep = self.told(x, sigma)
        return model(scaled, timestep / self.time_unit, conditioning["class_labels"])


class EpsilonDiTFamily(DiffusionDiTFamily):
    name = "dit-epsilon"
    predicts = "epsilon-linear"


class VDiTFamily(DiffusionDiTFamily):
    name = "dit-v"
    predicts = "v-linear"


class EDMDiTFamily(DiffusionDiTFamily):
    name = "dit-edm"
    predicts = "edm"
