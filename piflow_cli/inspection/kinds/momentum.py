"""The rates of a momentum policy, and the weight of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.policies.momentum import MomentumPolicy
from ..entropy import entropy, quantiles
from ..remedies import AdviceParts, SettingOf
from .anatomy import Anatomy
from .components import component_advice, component_numbers, in_effect
from .figures import momentum_figure


class Spectrum(NamedTuple):
    """The components of a momentum policy at one evaluation, by position.

    weights (B, K, *S) and ``effective`` (B, *S) are as in :class:`MixtureMaps`; loggammas (B, K, *S) are zero for the
    first component.
    """

    weights: Tensor
    effective: Tensor
    loggammas: Tensor


class SpectrumNumbers(NamedTuple):
    """The components by sample.

    ``effective``, ``usage``, ``highest`` are as in :class:`MixtureNumbers`. loggammas (B, K, 3): the values that a
    tenth, half and nine tenths of positions stay below.
    """

    effective: Tensor
    usage: Tensor
    highest: Tensor
    loggammas: Tensor


def spectrum(policy: MomentumPolicy) -> Spectrum:
    """The rates of a momentum policy (ArcFlow, arXiv 2602.09014), and their weights."""
    weights = policy.weights.squeeze(2)
    loggammas = policy.loggammas.squeeze(2).to(weights.dtype)
    return Spectrum(weights, entropy(weights, 1).exp(), torch.cat([torch.zeros_like(weights[:, :1]), loggammas], dim=1))


@dataclass(frozen=True)
class MomentumSummary:
    """The components of a momentum policy, in the terms of :class:`MixtureSummary`.

    ``gammas`` of each component: the values that a tenth, half and nine tenths of positions stay below.
    """

    components: int
    effective: tuple[float, float, float]
    effective_overall: float
    usage: list[float]
    dead: list[int]
    gammas: list[tuple[float, float, float]]


def summarise(numbers: SpectrumNumbers, switching: None, source: float, span: float) -> MomentumSummary:
    """The numbers of all samples as one."""
    return MomentumSummary(
        **component_numbers(numbers),
        gammas=[tuple(levels) for levels in numbers.loggammas.mean(dim=0).exp().tolist()],
    )


def by_sample(policy: MomentumPolicy) -> SpectrumNumbers:
    """The rates of each sample, summed up over positions."""
    found = spectrum(policy)
    weights, rates = found.weights.flatten(2), quantiles(found.loggammas, start=2)
    return SpectrumNumbers(quantiles(found.effective), weights.mean(dim=2), weights.amax(dim=2), rates)


def lines(momentum: MomentumSummary) -> Iterator[tuple[str, str]]:
    """The lines of the verdict on it."""
    yield in_effect(momentum)
    halves = [half for _, half, _ in momentum.gammas]
    yield "gammas", f"{min(halves):.2g} to {max(halves):.2g} at half of the positions"


def advice(momentum: MomentumSummary, setting: SettingOf) -> Iterator[AdviceParts]:
    """Advice on its components."""
    yield from component_advice(momentum, 2, setting)


ANATOMY = Anatomy(
    name="momentum",
    heading="Composition: momentum",
    text="A velocity of rate gamma grows by that factor over a unit of sigma on its way to the data; that of 1 stays as"
    " it is.",
    colours=("#2a8a57", "#7a8b1f"),
    by_sample=by_sample,
    by_position=spectrum,
    summarise=summarise,
    lines=lines,
    advice=advice,
    figure=momentum_figure,
)
