"""The mixture of a GM policy: components in effect, and where its posterior changes components."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.policies.gmflow import GMFlowPolicy
from ...core.rollout import rollout_through
from ...sampling.trajectory import PolicyPath, times
from ..entropy import DEAD_WEIGHT, entropy, quantiles
from ..remedies import AdviceParts, SettingOf, longer, more_dropout, set_key
from ..tensors import thin
from .anatomy import Anatomy
from .components import COLLAPSED, component_advice, component_numbers, in_effect
from .figures import mixture_figure

SWITCH_TIMES = 33
# The head has no clamp; outside of this range a width has lost its use: e^-8 is a point, and e is wider than the data.
LOGSTD_RANGE = (-8.0, 1.0)
STILL = 0.01


class MixtureMaps(NamedTuple):
    """The mixture of one evaluation by position, as the network predicts it, before any sampling temperature.

    weights (B, K, *S); ``effective`` (B, *S): exp of their entropy, between 1 and K; ``spread`` (B, *S): root mean
    square distance over channels of the means from their weighted mean, in units of x_0; ``logstd`` (B,) as emitted and
    ``std`` (B,) in units of x_0, sigma_s exp(logstd).
    """

    weights: Tensor
    effective: Tensor
    spread: Tensor
    logstd: Tensor
    std: Tensor


class MixtureNumbers(NamedTuple):
    """The mixture by sample.

    ``effective`` (B, 3): the values that a tenth, half and nine tenths of positions stay below. ``usage`` and
    ``highest`` (B, K): mean and largest weight of each component. ``varying`` (B,): standard deviation of weights over
    positions. ``spread``, ``logstd``, ``std`` (B,).
    """

    effective: Tensor
    usage: Tensor
    highest: Tensor
    varying: Tensor
    spread: Tensor
    logstd: Tensor
    std: Tensor


def mixed(policy: GMFlowPolicy) -> MixtureMaps:
    """The mixture of a GM policy (arXiv 2504.05304): components in effect, their widths and distances."""
    means, logweights, variance = policy.with_temperature(1.0).mixture
    weights = logweights.exp()
    centre = (weights * means).sum(dim=1, keepdim=True)
    distance = (means - centre).square_().mean(dim=2)
    weights = weights.squeeze(2)
    return MixtureMaps(
        weights=weights,
        effective=entropy(weights, 1).exp(),
        spread=(weights * distance).sum(dim=1).sqrt(),
        logstd=policy.logstds.reshape(-1).to(variance.dtype),
        std=variance.sqrt(),
    )


@dataclass(frozen=True)
class MixtureSummary:
    """The mixture of all samples.

    ``effective``: the numbers of components that a tenth, half and nine tenths of positions stay below.
    ``effective_overall``: of the mean weights. ``dead``: indices. ``std`` and ``spread``: in units of x_0.
    """

    components: int
    effective: tuple[float, float, float]
    effective_overall: float
    usage: list[float]
    dead: list[int]
    varying: float
    logstd: float
    logstd_range: tuple[float, float]
    std: float
    spread: float
    posterior_effective: list[float]
    moved: list[float]
    switches: float
    shift: float


def summarise(numbers: MixtureNumbers, switching: Switching, source: float, span: float) -> MixtureSummary:
    """The numbers of all samples as one."""
    return MixtureSummary(
        **component_numbers(numbers),
        varying=numbers.varying.mean().item(),
        logstd=numbers.logstd.mean().item(),
        logstd_range=(numbers.logstd.min().item(), numbers.logstd.max().item()),
        std=numbers.std.mean().item(),
        spread=numbers.spread.square().mean().sqrt().item(),
        posterior_effective=switching.effective.mean(dim=0).tolist(),
        moved=switching.moved.mean(dim=0).tolist(),
        switches=switching.switches.mean().item(),
        shift=switching.shift.mean().item(),
    )


class Switching(NamedTuple):
    """The posterior along one segment, at SWITCH_TIMES even raw times from source to end.

    Numbers are over the positions of :func:`~piflow_cli.inspection.tensors.thin`.

    ``effective`` (B, T): mean over positions of exp of the entropy of the posterior weights; ``moved`` (B, T-1): share
    of positions whose heaviest component is another than one time before; ``switches`` (B,): such changes per position;
    ``shift`` (B,): largest change of any weight between source and end, mean over positions.
    """

    effective: Tensor
    moved: Tensor
    switches: Tensor
    shift: Tensor


def switching(path: PolicyPath, substeps: int) -> Switching:
    """The posterior weights of a GM policy along its own rollout."""
    policy: Any = thin(path.policy)
    raws = torch.linspace(path.raws[0], path.raw_end, SWITCH_TIMES, dtype=torch.float64).tolist()
    x = policy.x_src.float()
    states = [x, *rollout_through(policy, x, [times(raw, x) for raw in raws], substeps=substeps)]
    effective, moved, first, before = [], [], None, None
    for raw, state in zip(raws, states):
        weights = policy.posterior(state, times(raw, x)).logweights.exp().squeeze(2)
        effective.append(entropy(weights, 1).exp().flatten(1).mean(dim=1))
        heaviest = weights.argmax(dim=1)
        if before is None:
            first = weights
        else:
            moved.append((heaviest != before).flatten(1).float().mean(dim=1))
        before = heaviest
    changes = torch.stack(moved, dim=1)
    shift = (weights - first).abs().amax(dim=1).flatten(1).mean(dim=1)
    return Switching(torch.stack(effective, dim=1), changes, changes.sum(dim=1), shift)


def marginal(policy: GMFlowPolicy, x: Tensor, raw: Tensor, values: Tensor, axis: int) -> Tensor:
    """Density (V,) at ``values`` of channel ``axis`` of x_0 at a single position, given ``x`` at ``raw``."""
    means, logweights, variance = policy.posterior(x, raw)
    std = variance.sqrt().reshape(1)
    centres, weights = means[0, :, axis].flatten(), logweights[0, :, 0].flatten().exp()
    standard = (values.to(centres).unsqueeze(1) - centres) / std
    return ((-standard.square() / 2).exp() / (std * math.sqrt(2 * math.pi)) * weights).sum(dim=1)


def densities(policy: GMFlowPolicy, states: list[Tensor], raws: list[float], values: Tensor, axis: int) -> Tensor:
    """:func:`marginal` (V, T) at each state and raw time."""
    return torch.stack([marginal(policy, x, times(raw, x), values, axis) for raw, x in zip(raws, states)], dim=1).cpu()


def by_sample(policy: GMFlowPolicy) -> MixtureNumbers:
    """The mixture of each sample, summed up over positions."""
    found = mixed(policy)
    weights = found.weights.flatten(2)
    return MixtureNumbers(
        effective=quantiles(found.effective),
        usage=weights.mean(dim=2),
        highest=weights.amax(dim=2),
        varying=weights.std(dim=2, unbiased=False).mean(dim=1),
        spread=found.spread.flatten(1).square().mean(dim=1).sqrt(),
        logstd=found.logstd,
        std=found.std,
    )


def lines(mixture: MixtureSummary) -> Iterator[tuple[str, str]]:
    """The lines of the verdict on it."""
    yield in_effect(mixture)
    yield "log-std", f"{mixture.logstd:.2f}, that is {mixture.std:.2g} in x_0; means {mixture.spread:.2g} apart"
    yield "switches", f"{mixture.switches:.1f} of the heaviest component at a position"


def advice(mixture: MixtureSummary, setting: SettingOf) -> Iterator[AdviceParts]:
    """Advice on its components, their width and their weights."""
    yield from component_advice(mixture, 1, setting)
    low, high = mixture.logstd_range
    if low < LOGSTD_RANGE[0] or high > LOGSTD_RANGE[1]:
        width = "points" if low < LOGSTD_RANGE[0] else "wider than the data"
        yield (
            "log-std at its edge",
            f"the log-std runs from {low:.2f} to {high:.2f}: components are {width}, and their width has no use",
            set_key("optimisation.learning_rate", setting("optimisation.learning_rate", 1e-4) / 2),
        )
    if mixture.components > 1 and mixture.effective[1] >= COLLAPSED and mixture.shift < STILL:
        yield (
            "weights never move",
            f"the weights change by {mixture.shift:.2g} at most from source to end: the mixture acts like its mean",
            f"{longer(setting)}, or {more_dropout(setting)}",
        )


ANATOMY = Anatomy(
    name="mixture",
    heading="Composition: mixtures",
    text=f"How many of the components matter. Below {DEAD_WEIGHT:.0%} of weight everywhere (dotted) a component is"
    " dead.",
    colours=("#2f6fb5", "#6a51a3"),
    by_sample=by_sample,
    by_position=mixed,
    switching=switching,
    density=densities,
    summarise=summarise,
    lines=lines,
    advice=advice,
    steers=True,
    figure=mixture_figure,
)
