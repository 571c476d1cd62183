"""Everything in a rollout that depends on time alone, computed once and in float64.

A GM substep needs no more than a handful of scalars for each sample. In the velocity space of the network, with means
m_k, source state x_s at sigma_s, displacement y = x - x_s, odds r = (1 - sigma) / sigma and variance v, the posterior
of GMFlow (arXiv 2504.05304; pi-Flow, arXiv 2510.14974) reads

    logit_k = logw_k - (p m_k.y + q m_k.x_s + s |m_k|^2),    u = a y + b x_s + c sum_k softmax(logit)_k m_k,

with zeta = r^2 - r_s^2, d = v zeta + 1 and

    p = sigma_s r / (sigma d),  q = sigma_s (r - r_s) / d,  s = sigma_s^2 zeta / (2 d),
    a = (1 - v (r + r_s^2)) / (sigma d),  b = -v (r - r_s) / (sigma d),  c = sigma_s / (sigma d).

This is the published form with mu_k = x_s - sigma_s m_k put in and terms common to all k dropped. Nothing in it is a
small difference of large numbers near the source, where y, q, s, b vanish and u is the prior mean of m.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .policies.base import SIGMA_FLOOR
from .policies.gmflow import DENOMINATOR_FLOOR
from .timegrid import substep_count, to_sigma


class SubstepTable(NamedTuple):
    """Times of a rollout, float64: raw times of the substeps and their change of sigma, both (B, steps).

    ``ends`` (B, legs) int64 counts the substeps taken when each leg is done; legs follow each other without a gap.
    Samples with fewer substeps than the longest are padded with steps of length zero.
    """

    raw: Tensor
    change: Tensor
    ends: Tensor

    @property
    def share(self) -> Tensor:
        """Weights (B, steps) that average the velocities of a rollout of one leg over sigma.

        A rollout of one substep has the velocity at its start, even where its length is zero.
        """
        total = self.change.sum(dim=1, keepdim=True)
        local = torch.zeros_like(self.change)
        local[:, 0] = 1
        return torch.where(total < 0, self.change / total.clamp(max=-torch.finfo(total.dtype).tiny), local)


def substep_table(raws: Sequence[Tensor], shift: float, substeps: int, width: int | None = None) -> SubstepTable:
    """Equal Euler steps in raw time along the legs between ``raws``, each (B,), every one mapped through the shift.

    ``width`` is the number of columns; without it the longest sample decides, which asks the device for a number.
    """
    points = torch.stack([raw.double() for raw in raws], dim=1)
    start, length = points[:, :-1], points.diff(dim=1)
    count = substep_count(-length, substeps)
    ends = count.cumsum(dim=1)
    width = int(ends[:, -1].max()) if width is None else width
    step = torch.arange(width, device=points.device).expand(len(points), -1).contiguous()
    leg = torch.searchsorted(ends, step, right=True).clamp(max=len(raws) - 2)
    leg_count = count.gather(1, leg)
    taken = (step - (ends - count).gather(1, leg)).minimum(leg_count).double()
    start, length = start.gather(1, leg), length.gather(1, leg)
    raw = start + length * (taken / leg_count)
    following = start + length * ((taken + 1).minimum(leg_count.double()) / leg_count)
    return SubstepTable(raw, to_sigma(following, shift) - to_sigma(raw, shift), ends)


class GMCoefficients(NamedTuple):
    """The scalars of each GM substep, float64 (B, steps); letters as at the head of this module.

    ``change`` is the step in sigma, ``weight`` that of its velocity in the integral; both are zero on padding.
    ``kappa``, ``a_logstd``, ``b_logstd`` are derivatives with respect to the log-std: p, q, s and c have -kappa times
    themselves, a and b the last two.
    """

    p: Tensor
    q: Tensor
    s: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    change: Tensor
    weight: Tensor
    kappa: Tensor
    a_logstd: Tensor
    b_logstd: Tensor


def gm_coefficients(
    table: SubstepTable, weight: Tensor, raw_src: Tensor, logstds: Tensor, shift: float, temperature: float
) -> GMCoefficients:
    """Scalars of the substeps of ``table`` for sources ``raw_src`` (B,) and log-stds (B,); ``weight`` (B, steps)."""
    sigma = to_sigma(table.raw, shift).clamp(min=SIGMA_FLOOR)
    sigma_src = to_sigma(raw_src.double(), shift).clamp(min=SIGMA_FLOOR).unsqueeze(1)
    variance = (2 * logstds.double().reshape(-1, 1)).exp() * sigma_src**2 * temperature
    odds, odds_src = (1 - sigma) / sigma, (1 - sigma_src) / sigma_src
    gap = odds - odds_src
    zeta = gap * (odds + odds_src)
    denominator = (variance * zeta + 1).clamp(min=DENOMINATOR_FLOOR)
    scale = 1 / (sigma * denominator)
    return GMCoefficients(
        sigma_src * odds * scale,
        sigma_src * gap / denominator,
        sigma_src**2 * zeta / (2 * denominator),
        (1 - variance * (odds + odds_src**2)) * scale,
        -variance * gap * scale,
        sigma_src * scale,
        table.change,
        weight,
        2 * variance * zeta / denominator,
        -2 * variance * odds / sigma * scale / denominator,
        -2 * variance * gap * scale / denominator,
    )
