"""Curves of one student, or of two over each other, whatever their policies are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..reports.plots import log_numbers
from .drawing import (
    PASSIVE_COLOUR,
    PASSIVE_STYLE,
    TEACHER_STYLE,
    StudentCurve,
    draw_bars,
    finish,
    panels_of,
)
from .kinds.anatomy import anatomy_named
from .numbers import Summary
from .robustness import MEASURED, SIZES, TYPICAL, passive
from .substeps import ENOUGH

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def student_curves(summaries: Sequence[Summary], names: Sequence[str]) -> list[StudentCurve]:
    """Students in the colours of their kinds of policy; the second of a kind has the other shade."""
    taken, drawn = set(), []
    for summary, name in zip(summaries, names, strict=True):
        colour = next(shade for shade in anatomy_named(summary.policy).colours if shade not in taken)
        taken.add(colour)
        drawn.append(StudentCurve(summary, name, colour))
    return drawn


def motion_figure(drawn: Sequence[StudentCurve]) -> list[Figure]:
    """Size and direction of the velocity along the rollout."""
    panels = [speed, turn] = panels_of(2)
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
    return finish(panels, drawn, legend=speed, timed=(speed, turn))


def teacher_figure(drawn: Sequence[StudentCurve]) -> list[Figure]:
    """Velocity error along the student's own path, by raw time and by noise level, and the distance of the paths."""
    panels = [by_raw, by_sigma, gap] = panels_of(3)
    for curve in drawn:
        for step in curve.summary.steps:
            if step.velocity_error is None or step.gap is None:
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
    return finish(panels, drawn, legend=gap, timed=(by_raw, gap))


def substeps_figure(drawn: Sequence[StudentCurve]) -> list[Figure]:
    """Error of coarse rollouts of each evaluation against the fine one."""
    panels = [axes] = panels_of(1)
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
    axes.set(xscale="log", xlabel="substeps per unit of raw time", ylabel="error of the end, % of the way")
    axes.set(title="how fine rollouts must be (dotted: as sampled)", xticks=drawn[0].summary.close.substeps)
    axes.set_xticklabels([str(count) for count in drawn[0].summary.close.substeps])
    axes.set_xticks([], minor=True)
    log_numbers(axes.yaxis)
    return finish(panels, drawn, legend=axes)


def robustness_figure(drawn: Sequence[StudentCurve]) -> list[Figure]:
    """Responses to perturbations: along the way, at the end by size, and the share of the teacher's answer."""
    panels = [decay, end, steer] = panels_of(3)
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
    lasting = [item.teacher_left for item in noise if item.teacher_left is not None]
    if lasting:
        unnamed: dict[str, Any] = {**TEACHER_STYLE, "label": None}
        decay.plot(first.raws, lasting[shown], **_teacher_style(drawn))
        end.plot(SIZES, [left[-1] for left in lasting], **unnamed)
        steer.axhline(1, **unnamed)
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
    return finish(panels, drawn, legend=decay, timed=(decay,))


def teacher_robustness_figure(drawn: Sequence[StudentCurve]) -> list[Figure]:
    """Answers of teachers at pushed states of their own paths, by noise level: a darker line for a larger push."""
    panels = [gain, error] = panels_of(2)
    for curve in drawn:
        if (found := curve.summary.teacher_robustness) is None:
            continue
        for number, pushed in enumerate(found.pushed, 1):
            style: dict[str, Any] = {"color": curve.colour, "alpha": number / len(found.pushed), "markersize": 3}
            gain.plot(found.sigmas, pushed.gain, "o-", label=f"{curve.name}, {pushed.size}", **style)
            error.plot(found.sigmas, [100 * value for value in pushed.velocity_error], "o-", **style)
    gain.axhline(1, **PASSIVE_STYLE)
    gain.set(ylabel="change of x_0 over the push", title="what the teacher makes of a push")
    error.set(ylabel="% of the velocity expected", title="velocity error of the teacher")
    for axes in panels:
        axes.set(xlabel="noise level sigma", ylim=(0, None))
        axes.invert_xaxis()
    return finish(panels, drawn, legend=gain)


def dropout_figure(drawn: Sequence[StudentCurve]) -> list[Figure]:
    """How far the end moves when one component is left out, where there are components."""
    panels = [axes] = panels_of(1)
    for number, curve in enumerate(drawn):
        draw_bars(axes, [100 * change for change in curve.summary.robustness.dropout or ()], curve, number, len(drawn))
    axes.set(xlabel="component that is left out", ylabel="change of the end, % of the way", title="component dropout")
    return finish(panels, drawn, legend=axes)


def _teacher_style(drawn: Sequence[StudentCurve]) -> dict:
    """The style of the first student's teacher; curves of other students' teachers would fill the panels."""
    alike = len({curve.summary.teacher for curve in drawn}) == 1
    return {**TEACHER_STYLE, "label": "teacher" if alike else f"teacher of {drawn[0].name}"}


def _once(style: dict, step: int) -> dict:
    return style if step == 1 else {**style, "label": None}
