"""What a policy is made of: the mixture of a GM policy, the rates of a momentum one, the curve of a DX one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core.policies.base import Policy
from ..core.policies.dx import DXPolicy
from ..core.policies.gmflow import GMFlowPolicy
from ..core.policies.momentum import MomentumPolicy
from .positions import unknown

DEAD_WEIGHT = 0.01
CURVE_POINTS = 9
QUANTILES = (0.1, 0.5, 0.9)


class Mixed(NamedTuple):
    """The mixture of one evaluation by position, as the network predicts it, before any sampling temperature.

    weights (B, K, *S); ``effective`` (B, *S): exp of their entropy, between 1 and K; ``spread`` (B, *S): root mean square
    distance over channels of the means from their weighted mean, in units of x_0; ``logstd`` (B,) as emitted and ``std``
    (B,) in units of x_0, sigma_s exp(logstd).
    """

    weights: Tensor
    effective: Tensor
    spread: Tensor
    logstd: Tensor
    std: Tensor


class MixedNumbers(NamedTuple):
    """The same by sample: ``effective`` (B, 3), the tenth, half and nine tenths of positions below; ``usage`` and
    ``highest`` (B, K), mean and largest weight of each component; ``varying`` (B,), the standard deviation of weights over
    positions; ``spread``, ``logstd``, ``std`` (B,).
    """

    effective: Tensor
    usage: Tensor
    highest: Tensor
    varying: Tensor
    spread: Tensor
    logstd: Tensor
    std: Tensor


class Spectrum(NamedTuple):
    """The components of a momentum policy at one evaluation, by position: weights (B, K, *S) and ``effective`` (B, *S) as in
    :class:`Mixed`; loggammas (B, K, *S), zero for the first component.
    """

    weights: Tensor
    effective: Tensor
    loggammas: Tensor


class SpectrumNumbers(NamedTuple):
    """The same by sample: ``effective``, ``usage``, ``highest`` as in :class:`MixedNumbers`; loggammas (B, K, 3), the tenth, half
    and nine tenths of positions below.
    """

    effective: Tensor
    usage: Tensor
    highest: Tensor
    loggammas: Tensor


class Curve(NamedTuple):
    """The x_0 of one evaluation as a function of raw time, at even times from the segment's end to its source.

    ``slope`` (B, N-1) and ``curvature`` (B, N-2): root mean squares over positions and channels of the first and the
    second derivative with respect to raw time, from differences; ``travel`` (B,): that of x_0 at the end minus x_0 at the
    source.
    """

    slope: Tensor
    curvature: Tensor
    travel: Tensor


def entropy(weights: Tensor, dim: int) -> Tensor:
    """-sum w ln w in nats; a weight of zero adds nothing."""
    return torch.special.entr(weights).sum(dim=dim)


def mixed(policy: GMFlowPolicy) -> Mixed:
    """The mixture of a GM policy (arXiv 2504.05304): how many components there are in effect, how wide, how far apart."""
    means, logweights, variance = policy.with_temperature(1.0).mixture
    weights = logweights.exp()
    centre = (weights * means).sum(dim=1, keepdim=True)
    distance = (means - centre).square_().mean(dim=2)
    weights = weights.squeeze(2)
    return Mixed(
        weights=weights,
        effective=entropy(weights, 1).exp(),
        spread=(weights * distance).sum(dim=1).sqrt(),
        logstd=policy.logstds.reshape(-1).to(variance.dtype),
        std=variance.sqrt(),
    )


def spectrum(policy: MomentumPolicy) -> Spectrum:
    """The rates of a momentum policy (ArcFlow, arXiv 2602.09014) and how much each counts."""
    weights = policy.weights.squeeze(2)
    loggammas = policy.loggammas.squeeze(2).to(weights.dtype)
    return Spectrum(weights, entropy(weights, 1).exp(), torch.cat([torch.zeros_like(weights[:, :1]), loggammas], dim=1))


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


def overall_effective(usage: Tensor) -> float:
    """exp of the entropy of the weights (B, K) averaged over samples: how many components are used at all, be it at
    different positions."""
    return entropy(usage.mean(dim=0), 0).exp().item()


def dead_components(highest: Tensor) -> list[int]:
    """Components whose largest weight (B, K) is below DEAD_WEIGHT: at every position of every sample."""
    return [index for index, weight in enumerate(highest.amax(dim=0).tolist()) if weight < DEAD_WEIGHT]


def curve(policy: DXPolicy) -> Curve:
    """How x_0 moves with time in a DX policy (pi-Flow, arXiv 2510.14974, section 3.1).

    A grid has its own N points; a polynomial is looked at in CURVE_POINTS of them.
    """
    points = CURVE_POINTS if policy.polynomial else policy.grid.shape[1]
    shares = torch.linspace(1, 0, points, dtype=torch.float64).tolist()
    raws = [policy.raw_src - policy.length * share for share in shares]
    values = torch.stack([policy.posterior_mean(policy.x_src, raw) for raw in raws], dim=1)
    step = policy.length[:, None] / max(points - 1, 1)
    first = values.diff(dim=1)

    def magnitude(value: Tensor) -> Tensor:
        return value.flatten(2).square().mean(dim=2).sqrt()

    return Curve(
        slope=magnitude(first) / step,
        curvature=magnitude(first.diff(dim=1)) / step**2,
        travel=magnitude(values[:, -1:] - values[:, :1]).squeeze(1),
    )
