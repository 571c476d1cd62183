"""What a policy is made of, whichever kind it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...core.policies.base import Policy
from ...core.policies.dx import DXPolicy
from ...core.policies.gmflow import GMFlowPolicy
from ...core.policies.momentum import MomentumPolicy
from ..tensors import unknown
from .dx import curve
from .mixture import MixedNumbers, mixed
from .momentum import Spectrum, SpectrumNumbers, spectrum

if TYPE_CHECKING:
    from .dx import Curve
    from .mixture import Mixed

QUANTILES = (0.1, 0.5, 0.9)


def by_position(policy: Policy) -> Mixed | Spectrum | None:
    """The components of a policy that has some."""
    if isinstance(policy, GMFlowPolicy):
        return mixed(policy)
    return spectrum(policy) if isinstance(policy, MomentumPolicy) else None


def by_sample(policy: Policy) -> MixedNumbers | SpectrumNumbers | Curve:
    """What a policy is made of, positions summed up, sample by sample. Raises UsageError for one of another kind."""
    if isinstance(policy, DXPolicy):
        return curve(policy)
    found = by_position(policy)
    if found is None:
        raise unknown(policy)
    weights = found.weights.flatten(2)
    levels = torch.tensor(QUANTILES, dtype=found.effective.dtype, device=found.effective.device)
    effective = found.effective.flatten(1).quantile(levels, dim=1).T
    if isinstance(found, Spectrum):
        rates = found.loggammas.flatten(2).quantile(levels, dim=2).movedim(0, 2)
        return SpectrumNumbers(effective, weights.mean(dim=2), weights.amax(dim=2), rates)
    return MixedNumbers(
        effective=effective,
        usage=weights.mean(dim=2),
        highest=weights.amax(dim=2),
        varying=weights.std(dim=2, unbiased=False).mean(dim=1),
        spread=found.spread.flatten(1).square().mean(dim=1).sqrt(),
        logstd=found.logstd,
        std=found.std,
    )
