"""Plots of a report: quality against evaluations, and error by time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..reports.plots import log_numbers
from ..sampling.trajectory import VelocityError
from .metric_kinds import metric_numbers
from .rows import Row, by_metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEACHER_COLOUR = "0.35"
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:cyan")
PANEL = 3.6
GRID_COLOUR = "0.92"


def colours_of(rows: Sequence[Row]) -> dict[str, str]:
    """One colour for each model, the same in every plot; grey is the teacher."""
    students = dict.fromkeys(row.model for row in rows if row.kind == "student")
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(students)}
    return {**{row.model: TEACHER_COLOUR for row in rows if row.kind == "teacher"}, **colours}


def quality_panels(rows: Sequence[Row]) -> list[Figure]:
    """A figure for each metric: the number against evaluations, both logarithmic, with intervals as bars."""
    known = metric_numbers()
    drawn = {
        title: column for title, column in by_metric(rows).items() if known[column[0].metric].drawn and _known(column)
    }
    colours, panels = colours_of(rows), []
    for title, column in drawn.items():
        figure, axes = _panel(PANEL)
        _quality(axes, _known(column), colours)
        better = known[column[0].metric].better
        axes.set(title=title, xlabel="network evaluations", ylabel=f"{title} ({better} is better)", xscale="log")
        if all(row.value > 0 for row in _known(column)):
            log_numbers(axes.yaxis)
        # A logarithmic axis counts in powers of ten, and evaluations are few: they are named themselves.
        counts = sorted({row.nfe for row in _known(column) if row.nfe is not None})
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xticks([], minor=True)
        if not panels:
            axes.legend(frameon=False, fontsize="small")
        panels.append(figure)
    return panels


def _panel(width: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, PANEL), layout="constrained")
    axes = figure.subplots()
    axes.grid(True, color=GRID_COLOUR)
    axes.set_axisbelow(True)
    return figure, axes


def _known(column: Sequence[Row]) -> list[Row]:
    return [row for row in column if row.nfe is not None]


def _quality(axes: Axes, column: Sequence[Row], colours: Mapping[str, str]) -> None:
    for name in dict.fromkeys(row.model for row in column):
        found = sorted((row for row in column if row.model == name), key=lambda row: row.nfe or 0)
        counts, values = [row.nfe or 0 for row in found], [row.value for row in found]
        kind, marker = found[0].kind, "s" if found[0].kind == "teacher" else "o"
        axes.plot(
            counts,
            values,
            marker=marker,
            color=colours[name],
            linewidth=1,
            label=name if kind == "student" else f"{name}, {found[0].policy}",
        )
        bounds = [(row.nfe, row.low, row.high) for row in found if row.low is not None and row.high is not None]
        if bounds:
            axes.vlines(
                [nfe for nfe, _, _ in bounds],
                [low for _, low, _ in bounds],
                [high for _, _, high in bounds],
                color=colours[name],
                linewidth=4,
                alpha=0.25,
            )


def error_figure(
    errors: Mapping[str, tuple[str, Sequence[VelocityError]]], colours: Mapping[str, str]
) -> Figure | None:
    """Trajectory error against raw time, noise on the left.

    ``errors``: by title, with the name of the model whose colour is used.
    """
    if not errors:
        return None
    figure, axes = _panel(2 * PANEL)
    styles: dict[str, int] = {}
    for title, (name, found) in errors.items():
        style = styles[name] = styles.get(name, -1) + 1
        for index in sorted({error.index for error in found}):
            part = [error for error in found if error.index == index]
            # A line an evaluation: at each of them the student looks again, and the error jumps.
            axes.plot(
                [error.raw for error in part], [error.relative for error in part], marker=".", linewidth=1,
                color=colours[name], linestyle=("-", "--", ":", "-.")[style % 4], label=title if index == 0 else None,
            )  # fmt: skip
    if all(error.relative > 0 for _, found in errors.values() for error in found[1:]):
        log_numbers(axes.yaxis)
    axes.set(xlabel="raw time (1 is noise)", ylabel="squared error over the teacher's", xlim=(1.02, -0.02))
    axes.legend(frameon=False, fontsize="small")
    return figure
