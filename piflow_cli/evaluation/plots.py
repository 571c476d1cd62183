"""Pictures of a report: quality against evaluations, error by time, and samples of all models from the same noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..sampling.trajectory import VelocityError
from .metric_kinds import metric_numbers
from .rows import Row, by_metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

TEACHER_COLOUR = "0.35"
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:cyan")
PANEL = 3.6
# An axis that spans less also has numbers between the powers of ten.
FEW = 100
LARGEST_CELL = 256


def colours_of(rows: Sequence[Row]) -> dict[str, str]:
    """One colour for each model, the same in every plot; grey is the teacher."""
    students = dict.fromkeys(row.model for row in rows if row.kind == "student")
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(students)}
    return {**{row.model: TEACHER_COLOUR for row in rows if row.kind == "teacher"}, **colours}


def quality_figure(rows: Sequence[Row]) -> Figure | None:
    """A panel for each metric: the number against evaluations, both logarithmic, with intervals as bars.

    None where nothing is to be drawn.
    """
    from matplotlib.figure import Figure

    known = metric_numbers()
    drawn = {
        title: column for title, column in by_metric(rows).items() if known[column[0].metric].drawn and _known(column)
    }
    if not drawn:
        return None
    across = min(3, len(drawn))
    down = -(-len(drawn) // across)
    figure = Figure(figsize=(across * PANEL, down * PANEL), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flat
    colours = colours_of(rows)
    for axes, (title, column) in zip(panels, drawn.items()):
        _quality(axes, _known(column), colours)
        axes.set(title=title, xlabel="network evaluations", xscale="log")
        if all(row.value > 0 for row in _known(column)):
            _logarithmic(axes)
        # A logarithmic axis counts in powers of ten, and evaluations are few: they are named themselves.
        counts = sorted({row.nfe for row in _known(column) if row.nfe is not None})
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.grid(True, color="0.92")
    for axes in list(figure.axes)[len(drawn) :]:
        axes.remove()
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure


def _logarithmic(axes: Axes) -> None:
    """Numbers beside the axis, also between powers of ten where it spans few of them."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}" if high / low < FEW else "")
    axes.tick_params(axis="y", which="minor", labelsize="small")


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
    from matplotlib.figure import Figure

    if not errors:
        return None
    figure = Figure(figsize=(7.2, PANEL), layout="constrained")
    axes = figure.subplots()
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
        _logarithmic(axes)
    axes.set(xlabel="raw time (1 is noise)", ylabel="squared error over the teacher's", xlim=(1.02, -0.02))
    axes.grid(True, color="0.92")
    axes.legend(frameon=False, fontsize="small")
    return figure


def sample_figure(grid: Mapping[str, Sequence[Image]]) -> Figure:
    """Samples in a row for each model and a column for each noise."""
    from matplotlib.figure import Figure

    columns = max(len(images) for images in grid.values())
    figure = Figure(figsize=(columns * 0.85 + 1.9, len(grid) * 0.85 + 0.1), layout="constrained")
    cells = figure.subplots(len(grid), columns, squeeze=False)
    for line, (title, images) in zip(cells, grid.items()):
        for axes in line:
            axes.set_axis_off()
        for axes, image in zip(line, images):
            image.thumbnail((LARGEST_CELL, LARGEST_CELL))
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        line[0].text(-0.15, 0.5, title, transform=line[0].transAxes, ha="right", va="center", fontsize="small")
    return figure
