"""Figures of the policies of one kind, for one student or two."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ...reports.plots import log_numbers
from ..drawing import PASSIVE_COLOUR, StudentCurve, draw_bars, even, finish, panels_of
from ..entropy import DEAD_WEIGHT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def mixture_figure(drawn: Sequence[StudentCurve]) -> list[Figure]:
    """Figures of GM students: use of components, components in effect on the way, and where they change."""
    panels = [bars, effect, moved] = panels_of(3)
    switch_times = len(drawn[0].summary.close.part.posterior_effective)
    for number, curve in enumerate(drawn):
        mixture = curve.summary.close.part
        draw_bars(bars, sorted(mixture.usage, reverse=True), curve, number, len(drawn))
        for step in curve.summary.steps:
            raws = even(step.raws[0], step.raws[-1], switch_times)
            effect.plot(raws, step.part.posterior_effective, color=curve.colour)
            moved.plot(raws[1:], [100 * share for share in step.part.moved], color=curve.colour)
    most = max(curve.summary.close.part.components for curve in drawn)
    bars.axhline(DEAD_WEIGHT, color=PASSIVE_COLOUR, linewidth=1, linestyle=":")
    bars.set(xlabel="component, the heaviest first", ylabel="mean weight", title="use of components")
    effect.set(ylabel="components in effect", title="posterior along the rollout", ylim=(0.9, 1.05 * most))
    moved.set(
        ylabel="positions whose heaviest changes, %",
        title=f"switches in each 1/{switch_times - 1} of a segment",
        ylim=(0, None),
    )
    return finish(panels, drawn, legend=bars, timed=(effect, moved))


def momentum_figure(drawn: Sequence[StudentCurve]) -> list[Figure]:
    """Figures of momentum students: use of components, and the rates at which velocities grow or decay."""
    panels = [bars, rates] = panels_of(2)
    for number, curve in enumerate(drawn):
        momentum = curve.summary.close.part
        draw_bars(bars, sorted(momentum.usage, reverse=True), curve, number, len(drawn))
        for weight, (low, half, high) in zip(momentum.usage, momentum.gammas):
            rates.plot([low, high], [weight, weight], color=curve.colour, linewidth=2, alpha=0.5)
            rates.plot([half], [weight], "o", markersize=4, color=curve.colour)
    bars.axhline(DEAD_WEIGHT, color=PASSIVE_COLOUR, linewidth=1, linestyle=":")
    bars.set(xlabel="component, the heaviest first", ylabel="mean weight", title="use of components")
    rates.axvline(1, color=PASSIVE_COLOUR, linewidth=1, linestyle=":")
    rates.set(xlabel="gamma, growth per unit of sigma", ylabel="mean weight", ylim=(0, None))
    rates.set(title="rates (bar: 80 % of positions)")
    log_numbers(rates.xaxis)
    return finish(panels, drawn, legend=bars)


def grid_figure(drawn: Sequence[StudentCurve]) -> list[Figure]:
    """Figures of DX students: how fast x_0 moves with raw time, and how much that bends."""
    panels = [slopes, curvatures] = panels_of(2)
    for curve in drawn:
        for step in curve.summary.steps:
            points = step.part.raws
            between = [(one + other) / 2 for one, other in pairwise(points)]
            label = curve.name if step.step == 1 else None
            slopes.plot(between, step.part.slope, "o-", markersize=3, color=curve.colour)
            curvatures.plot(points[1:-1], step.part.curvature, "o-", markersize=3, color=curve.colour, label=label)
    slopes.set(ylabel="slope, x_0 per unit of raw time", title="how fast x_0 moves", ylim=(0, None))
    curvatures.set(ylabel="curvature, x_0 per squared unit", title="how much its way bends", ylim=(0, None))
    return finish(panels, drawn, legend=curvatures, timed=(slopes, curvatures))
