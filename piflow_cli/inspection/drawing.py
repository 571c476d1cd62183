"""Drawing of curves: students and their colours, panels, legends. Time runs from noise on the left to data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.timegrid import to_raw, to_sigma
from .numbers import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEACHER_COLOUR, PASSIVE_COLOUR = "#333333", "#9aa0a6"
PASSIVE_STYLE: dict[str, Any] = {"color": PASSIVE_COLOUR, "linewidth": 5, "alpha": 0.5, "zorder": 1}
TEACHER_STYLE: dict[str, Any] = {"color": TEACHER_COLOUR, "linestyle": (0, (4, 2)), "label": "teacher"}


@dataclass(frozen=True)
class StudentCurve:
    """A student in plots: its numbers, a name, and the colour of its kind of policy."""

    summary: Summary
    name: str
    colour: str


def figure_of(panels: int) -> tuple[Figure, list[Axes]]:
    """A figure of some panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.6, 3.7 * panels), 3.3), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#eceef0")
        panel.set_axisbelow(True)
    return figure, list(axes)


def finish(legend: Axes, drawn: Sequence[StudentCurve], timed: Sequence[Axes]) -> None:
    """Finish panels: raw time from left to right, edges of segments, one legend, and titles that fit."""
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


def draw_bars(axes: Axes, heights: Sequence[float], curve: StudentCurve, number: int, count: int) -> None:
    """Bars around whole numbers from 0, several students side by side, with room for a legend above."""
    width = 0.8 / count
    places = [index + (number - (count - 1) / 2) * width for index in range(len(heights))]
    axes.bar(places, heights, width=width, color=curve.colour, label=curve.name)
    locator: Any = axes.xaxis.get_major_locator()
    locator.set_params(integer=True)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.2 * max(heights), 1e-6))


def even(first: float, last: float, count: int) -> list[float]:
    """``count`` numbers from ``first`` to ``last``."""
    return [first + (last - first) * part / max(count - 1, 1) for part in range(count)]
