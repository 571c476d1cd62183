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


def panels_of(count: int) -> list[Axes]:
    """Panels, each in a figure of its own, so that a page can place them."""
    from matplotlib.figure import Figure

    panels = []
    for _ in range(count):
        figure = Figure(figsize=(4.6 if count == 1 else 3.9, 3.3), layout="constrained")
        panel = figure.subplots()
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#eceef0")
        panel.set_axisbelow(True)
        panels.append(panel)
    return panels


def finish(
    panels: Sequence[Axes], drawn: Sequence[StudentCurve], *, legend: Axes, timed: Sequence[Axes] = ()
) -> list[Figure]:
    """The figures of finished panels: raw time from left to right, edges of segments, one legend, titles that fit."""
    summary = drawn[0].summary
    for axes in panels:
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
    return [axes.figure.figure for axes in panels]


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
