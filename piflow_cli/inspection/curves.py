"""Curves of one student, or of two over each other. Time runs as sampling does:
from noise on the left to data on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from ..core.timegrid import to_raw, to_sigma
from .entropy import DEAD_WEIGHT
from .kinds.mixture import SWITCH_TIMES
from .robustness import MEASURED, SIZES, TYPICAL, passive
from .substeps import ENOUGH
from .summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GM_COLOURS, DX_COLOURS, MOMENTUM_COLOURS = ("#2f6fb5", "#6a51a3"), ("#d9730d", "#a6761d"), ("#2a8a57", "#7a8b1f")
TEACHER_COLOUR, PASSIVE_COLOUR = "#333333", "#9aa0a6"
PASSIVE_STYLE = {"color": PASSIVE_COLOUR, "linewidth": 5, "alpha": 0.5, "zorder": 1}
TEACHER_STYLE = {"color": TEACHER_COLOUR, "linestyle": (0, (4, 2)), "label": "teacher"}


@dataclass(frozen=True)
class StudentCurve:
    """A student as it is drawn: its numbers, a name, and a colour that says what kind of policy it has."""

    summary: Summary
    name: str
    colour: str


def student_curves(summaries: Sequence[Summary], names: Sequence[str]) -> list[StudentCurve]:
    """Students with their colours: blue is GM, orange DX, green momentum, and
    the second of a kind has the other shade."""
    taken, drawn = set(), []
    for summary, name in zip(summaries, names, strict=True):
        shades = {"gm": GM_COLOURS, "momentum": MOMENTUM_COLOURS}.get(summary.policy, DX_COLOURS)
        colour = next(shade for shade in shades if shade not in taken)
        taken.add(colour)
        drawn.append(StudentCurve(summary, name, colour))
    return drawn


def mixture_figure(drawn: Sequence[StudentCurve]) -> Figure:
    """Of GM students: how much each component is used, how many are in effect on the way, and where they change."""
    figure, (bars, effect, moved) = _figure(3)
    for number, curve in enumerate(drawn):
        mixture = curve.summary.close.mixture
        _bars(bars, sorted(mixture.usage, reverse=True), curve, number, len(drawn))
        for step in curve.summary.steps:
            raws = _even(step.raws[0], step.raws[-1], SWITCH_TIMES)
            effect.plot(raws, step.mixture.posterior_effective, color=curve.colour)
            moved.plot(raws[1:], [100 * share for share in step.mixture.moved], color=curve.colour)
    most = max(curve.summary.close.mixture.components for curve in drawn)
    bars.axhline(DEAD_WEIGHT, color=PASSIVE_COLOUR, linewidth=1, linestyle=":")
    bars.set(xlabel="component, the heaviest first", ylabel="mean weight", title="use of components")
    effect.set(ylabel="components in effect", title="posterior along the rollout", ylim=(0.9, 1.05 * most))
    moved.set(
        ylabel="positions whose heaviest changes, %",
        title=f"switches in each 1/{SWITCH_TIMES - 1} of a segment",
        ylim=(0, None),
    )
    _finish(bars, drawn, timed=(effect, moved))
    return figure


def momentum_figure(drawn: Sequence[StudentCurve]) -> Figure:
    """Of momentum students: how much each component is used, and at which rates velocities grow or decay."""
    from matplotlib.ticker import LogLocator

    figure, (bars, rates) = _figure(2)
    for number, curve in enumerate(drawn):
        momentum = curve.summary.close.momentum
        _bars(bars, sorted(momentum.usage, reverse=True), curve, number, len(drawn))
        for weight, (low, half, high) in zip(momentum.usage, momentum.gammas):
            rates.plot([low, high], [weight, weight], color=curve.colour, linewidth=2, alpha=0.5)
            rates.plot([half], [weight], "o", markersize=4, color=curve.colour)
    bars.axhline(DEAD_WEIGHT, color=PASSIVE_COLOUR, linewidth=1, linestyle=":")
    bars.set(xlabel="component, the heaviest first", ylabel="mean weight", title="use of components")
    rates.axvline(1, color=PASSIVE_COLOUR, linewidth=1, linestyle=":")
    rates.set(xscale="log", xlabel="gamma, growth per unit of sigma", ylabel="mean weight", ylim=(0, None))
    rates.set(title="rates (bar: 80 % of positions)")
    rates.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    rates.xaxis.set_major_formatter("{x:g}")
    rates.minorticks_off()
    _finish(bars, drawn, timed=())
    return figure


def grid_figure(drawn: Sequence[StudentCurve]) -> Figure:
    """Of DX students: how fast x_0 moves with raw time, and how much that bends."""
    figure, (slopes, curvatures) = _figure(2)
    for curve in drawn:
        for step in curve.summary.steps:
            points = step.grid.raws
            between = [(one + other) / 2 for one, other in pairwise(points)]
            label = curve.name if step.step == 1 else None
            slopes.plot(between, step.grid.slope, "o-", markersize=3, color=curve.colour)
            curvatures.plot(points[1:-1], step.grid.curvature, "o-", markersize=3, color=curve.colour, label=label)
    slopes.set(ylabel="slope, x_0 per unit of raw time", title="how fast x_0 moves", ylim=(0, None))
    curvatures.set(ylabel="curvature, x_0 per squared unit", title="how much its way bends", ylim=(0, None))
    _finish(curvatures, drawn, timed=(slopes, curvatures))
    return figure


def motion_figure(drawn: Sequence[StudentCurve]) -> Figure:
    """Size and direction of the velocity along the rollout."""
    figure, (speed, turn) = _figure(2)
    for curve in drawn:
        for step in curve.summary.steps:
            label = f"{curve.name}, straightness {curve.summary.straightness:.3f}" if step.step == 1 else None
            speed.plot(step.raws[:-1], step.speed, "o-", markersize=3, color=curve.colour, label=label)
            turn.plot(step.raws[1:-1], step.turn, "o-", markersize=3, color=curve.colour)
    for step in drawn[0].summary.steps:
        if step.teacher_speed is not None:
            speed.plot(step.raws[:-1], step.teacher_speed, **_once(_teacher_style(drawn), step.step))
    speed.set(ylabel="velocity, root mean square", title="size of the velocity", ylim=(0, None))
    turn.set(ylabel="turn since the state before, degrees", title="change of direction", ylim=(0, None))
    _finish(speed, drawn, timed=(speed, turn))
    return figure


def teacher_figure(drawn: Sequence[StudentCurve]) -> Figure:
    """Velocity error along the student's own path, by raw time and by noise level, and the distance of the paths."""
    figure, (by_raw, by_sigma, gap) = _figure(3)
    for curve in drawn:
        for step in curve.summary.steps:
            if step.velocity_error is None:
                continue
            relative = [100 * error["relative"] for error in step.velocity_error]
            for axes, times in ((by_raw, step.raws), (by_sigma, step.sigmas)):
                axes.plot(times[:-1], relative, "o-", markersize=3, color=curve.colour)
            gap.plot(
                step.raws,
                step.gap,
                "o-",
                markersize=3,
                color=curve.colour,
                label=curve.name if step.step == 1 else None,
            )
    for axes in (by_raw, by_sigma):
        axes.set(ylabel="squared, % of the teacher's", title="velocity error on the student's path", ylim=(0, None))
    gap.set(ylabel="root mean square, in units of x", title="distance to the teacher's path", ylim=(0, None))
    by_sigma.set(xlabel="noise level sigma")
    by_sigma.invert_xaxis()
    _finish(gap, drawn, timed=(by_raw, gap))
    return figure


def substeps_figure(drawn: Sequence[StudentCurve]) -> Figure:
    """Error of coarse rollouts of each evaluation against the fine one."""
    figure, (axes,) = _figure(1)
    for curve in drawn:
        for step in curve.summary.steps:
            percent = [100 * error for error in step.substep_errors]
            axes.plot(
                step.substeps,
                percent,
                "o-",
                markersize=3,
                color=curve.colour,
                label=curve.name if step.step == 1 else None,
            )
            if curve.summary.nfe > 1:
                axes.annotate(
                    f" {step.step}", (step.substeps[-1], percent[-1]), color=curve.colour, fontsize=8, va="center"
                )
        axes.axvline(curve.summary.substeps, color=curve.colour, linewidth=1, linestyle=":")
    axes.axhline(100 * ENOUGH, color=PASSIVE_COLOUR, linewidth=1, linestyle="--")
    axes.set(
        xscale="log", yscale="log", xlabel="substeps per unit of raw time", ylabel="error of the end, % of the way"
    )
    axes.set(title="how fine rollouts must be (dotted: as sampled)", xticks=drawn[0].summary.close.substeps)
    axes.set_xticklabels([str(count) for count in drawn[0].summary.close.substeps])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    _finish(axes, drawn, timed=())
    return figure


def robustness_figure(drawn: Sequence[StudentCurve]) -> Figure:
    """What becomes of perturbations: along the way, at the end by size, and
    how much of the teacher's answer is given."""
    figure, (decay, end, steer) = _figure(3)
    shown = SIZES.index(TYPICAL)
    for curve in drawn:
        robustness = curve.summary.robustness
        noise = [item for item in robustness.perturbations if item.size != MEASURED]
        decay.plot(robustness.raws, noise[shown].left, "o-", markersize=3, color=curve.colour, label=curve.name)
        end.plot(SIZES, [item.left[-1] for item in noise], "o-", markersize=3, color=curve.colour)
        if noise[0].steering is not None:
            steer.plot(SIZES, [item.steering for item in noise], "o-", markersize=3, color=curve.colour)
        for item in robustness.perturbations:
            if item.size == MEASURED and item.steering is not None:
                steer.plot([item.given / robustness.sigma], [item.steering], "*", markersize=11, color=curve.colour)
    first = drawn[0].summary.robustness
    noise = [item for item in first.perturbations if item.size != MEASURED]
    shift = drawn[0].summary.shift
    decay.plot(
        first.raws, [passive(first.raws[0], raw, shift) for raw in first.raws], label="no reaction", **PASSIVE_STYLE
    )
    end.axhline(first.passive, **PASSIVE_STYLE)
    if noise[shown].teacher_left is not None:
        decay.plot(first.raws, noise[shown].teacher_left, **_teacher_style(drawn))
        end.plot(SIZES, [item.teacher_left[-1] for item in noise], **{**TEACHER_STYLE, "label": None})
        steer.axhline(1, **{**TEACHER_STYLE, "label": None})
    steer.axhline(0, **PASSIVE_STYLE)
    decay.set(
        ylabel="share of the perturbation that is left",
        title=f"noise of {noise[shown].size} put in at raw {first.raws[0]:.3g}",
        ylim=(0, None),
    )
    end.set(
        xscale="log",
        xlabel="size of the noise, in sigma",
        ylabel="share left at the segment's end",
        title="what reaches the end",
        ylim=(-0.02, None),
    )
    steer.set(
        xscale="log",
        xlabel="size, in sigma (star: the student's own error)",
        ylabel="steering ratio",
        title="share of the teacher's answer",
    )
    for axes in (end, steer):
        axes.set_xticks(SIZES, [f"{size:g}" for size in SIZES])
        axes.minorticks_off()
    _finish(decay, drawn, timed=(decay,))
    return figure


def dropout_figure(drawn: Sequence[StudentCurve]) -> Figure:
    """How far the end moves when one component is left out, where there are components."""
    figure, (axes,) = _figure(1)
    for number, curve in enumerate(drawn):
        _bars(axes, [100 * change for change in curve.summary.robustness.dropout], curve, number, len(drawn))
    axes.set(xlabel="component that is left out", ylabel="change of the end, % of the way", title="component dropout")
    _finish(axes, drawn, timed=())
    return figure


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.6, 3.7 * panels), 3.3), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#eceef0")
        panel.set_axisbelow(True)
    return figure, list(axes)


def _finish(legend: Axes, drawn: Sequence[StudentCurve], timed: Sequence[Axes]) -> None:
    """Raw time from left to right as sampling goes, edges of segments, one legend, and titles that fit their panels."""
    summary = drawn[0].summary
    for axes in legend.figure.axes:
        axes.title.set_fontsize(10)
        for text in (axes.xaxis.label, axes.yaxis.label):
            text.set_fontsize(9)
    for axes in timed:
        axes.set(xlabel="raw time")
        axes.invert_xaxis()
        if summary.shift != 1:
            above = axes.secondary_xaxis(
                "top", functions=(partial(to_sigma, shift=summary.shift), partial(to_raw, shift=summary.shift))
            )
            above.tick_params(labelsize=7, colors="#59636e")
            above.set_xlabel("sigma", fontsize=7, color="#59636e")
        for step in summary.steps[1:]:
            if axes.dataLim.x0 < step.raws[0] < axes.dataLim.x1:
                axes.axvline(step.raws[0], color="#d8dce0", linewidth=1, zorder=0)
    if legend.get_legend_handles_labels()[0]:
        legend.legend(frameon=False, fontsize=8)


def _bars(axes: Axes, heights: Sequence[float], curve: StudentCurve, number: int, count: int) -> None:
    """Bars around whole numbers from 0, those of several students side by side, with room for a legend above."""
    width = 0.8 / count
    places = [index + (number - (count - 1) / 2) * width for index in range(len(heights))]
    axes.bar(places, heights, width=width, color=curve.colour, label=curve.name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.2 * max(heights), 1e-6))


def _teacher_style(drawn: Sequence[StudentCurve]) -> dict:
    """Of the first student's teacher, called so where students have several:
    curves of the others' would fill the panels."""
    alike = len({curve.summary.teacher for curve in drawn}) == 1
    return {**TEACHER_STYLE, "label": "teacher" if alike else f"teacher of {drawn[0].name}"}


def _once(style: dict, step: int) -> dict:
    return style if step == 1 else {**style, "label": None}


def _even(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * part / max(count - 1, 1) for part in range(count)]
