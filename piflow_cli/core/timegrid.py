"""Raw time, shift, segments and substeps.

Raw time tau in [0, 1] is where steps are uniform; sigma in [0, 1] is the noise level of x_t = (1 - sigma) x_0 + sigma
eps. Both run from 1 (noise) to 0 (data). Times are float64 throughout: a difference of two of them is divided by later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .segments import segment_length


def to_sigma(raw, shift: float):
    """Noise level of a raw time: shift * raw / (1 + (shift - 1) * raw) (Esser et al., arXiv 2403.03206, eq. 23).

    ``raw`` is a float or a tensor of any shape; the result has its type.
    """
    return shift * raw / (1 + (shift - 1) * raw)


def to_raw(sigma, shift: float):
    """Raw time of a noise level, the inverse of :func:`to_sigma`."""
    return sigma / (shift + (1 - shift) * sigma)


def substep_count(interval: Tensor, substeps: int) -> Tensor:
    """Euler substeps for raw intervals, int64: max(1, round(substeps * interval)).

    ``substeps`` counts them per unit of raw time.
    """
    return (interval * substeps).round().clamp(min=1).to(torch.int64)


@dataclass(frozen=True)
class TimeGrid:
    """The raw times at which a student is evaluated.

    ``nfe`` segments of equal raw length, but for the last, which is ``final_step_scale`` times as long
    (pi-Flow, arXiv 2510.14974, and its published configurations). They begin at the noise level ``noisiest``: 1, but
    for teachers whose noisiest state has data in it yet.
    """

    nfe: int
    final_step_scale: float = 1.0
    shift: float = 1.0
    noisiest: float = 1.0

    def __post_init__(self) -> None:
        if self.nfe < 1:
            raise ValueError(f"nfe must be at least 1, not {self.nfe}")
        if not 0 < self.final_step_scale <= 1:
            raise ValueError(f"final_step_scale must be in (0, 1], not {self.final_step_scale}")
        if not self.shift > 0:
            raise ValueError(f"shift must be positive, not {self.shift}")
        if not 0 < self.noisiest <= 1:
            raise ValueError(f"noisiest must be in (0, 1], not {self.noisiest}")

    @property
    def start(self) -> float:
        """The raw time of the first evaluation."""
        # Rounded, the shift would move a start at pure noise.
        return 1.0 if self.noisiest == 1 else to_raw(self.noisiest, self.shift)

    @property
    def segment(self) -> float:
        """Raw length of every segment but the last; of a single segment, its own."""
        return self.start * segment_length(self.nfe, self.final_step_scale)

    @property
    def edges(self) -> tuple[float, ...]:
        """The nfe + 1 raw times between segments, from the start down to 0."""
        return (*(self.start - index * self.segment for index in range(self.nfe)), 0.0)

    def enclosing(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Upper end and length of the segment that holds each raw time in (0, start]; both (B,) float64."""
        edges = torch.tensor(self.edges, dtype=torch.float64, device=raw.device)
        index = ((self.start - raw.double()) / self.segment).floor().long().clamp(0, self.nfe - 1)
        return edges[index], edges[index] - edges[index + 1]


def renoising(sigma_src: float, sigma_next: float, stochastic: float) -> tuple[float, float]:
    """The noise level to which a stochastic sampler rolls the policy before it re-noises up to sigma_next.

    ``stochastic`` is h: 0 is the ODE, ``inf`` full re-noising. Returns (sigma_dst, m_h); the next state is then
    (1 - e + e m) x_dst + e sqrt(1 - m^2) noise with e = sigma_next (GMFlow, arXiv 2504.05304, its SDE solver).
    """
    if stochastic < 0 or math.isnan(stochastic):
        raise ValueError(f"stochastic must be at least 0, not {stochastic}")
    # A product may be infinite, where a power that is too large raises.
    exponent = stochastic * stochastic
    if stochastic == 0:
        memory = 1.0
    elif math.isinf(exponent) or sigma_src >= 1:
        memory = 0.0
    else:
        ratio = sigma_next * (1 - sigma_src) / (sigma_src * (1 - sigma_next))
        memory = ratio**exponent
    return sigma_next * memory / (1 - sigma_next + sigma_next * memory), memory
