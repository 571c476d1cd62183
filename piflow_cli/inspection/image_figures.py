"""Pictures by position: maps of a mixture, x_0 on the way, samples beside the teacher's, and a slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .analysis import Findings
from .slices import Slice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

MOST_COMPONENTS = 8
CELL = 1.15


def maps_figure(maps: Sequence[Any], ends: Sequence[Image]) -> Figure:
    """A row for each picture: the sample, components in effect, and the weights of the heaviest components.

    ``maps``: of each sample, as the anatomy of its policy has them ``by_position``.
    """
    usage = torch.stack([found.weights.flatten(2).mean(dim=2)[0] for found in maps]).sum(dim=0)
    heaviest = usage.argsort(descending=True)[:MOST_COMPONENTS].tolist()
    components = len(usage)
    titles = ["sample", "in effect", *(f"weight {index}" for index in heaviest)]
    highest = max(found.weights.max().item() for found in maps)
    figure, cells = _cells(len(maps), len(titles), bar=True)
    for row, found, end in zip(cells, maps, ends):
        _show(row[0], end)
        effect = row[1].imshow(
            found.effective[0].numpy(), cmap="viridis", vmin=1, vmax=components, interpolation="nearest"
        )
        for axes, index in zip(row[2:], heaviest):
            weight = axes.imshow(
                found.weights[0, index].numpy(), cmap="magma", vmin=0, vmax=highest, interpolation="nearest"
            )
    for axes, title in zip(cells[0], titles):
        axes.set_title(title, fontsize=9)
    figure.colorbar(effect, ax=[row[1] for row in cells], location="bottom", aspect=6, ticks=[1, components], pad=0.02)
    figure.colorbar(weight, ax=[axes for row in cells for axes in row[2:]], location="bottom", aspect=40, pad=0.02)
    return figure


def estimates_figure(raws: Sequence[float], kinds: Mapping[str, Sequence[Sequence[Image]]]) -> Figure:
    """x_0 at the times ``raws`` on the student's own path: a row for each kind of model, below each other by picture.

    ``kinds``: by name, the pictures at each time.
    """
    pictures = len(next(iter(kinds.values()))[0])
    figure, cells = _cells(pictures * len(kinds), len(raws))
    for picture in range(pictures):
        for place, (name, columns) in enumerate(kinds.items()):
            row = cells[picture * len(kinds) + place]
            for axes, column in zip(row, columns):
                _show(axes, column[picture])
            row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for axes, raw in zip(cells[0], raws):
        axes.set_title(f"raw {raw:.3g}", fontsize=9)
    return figure


def ends_rows(found: Sequence[Findings], names: Sequence[str]) -> dict[str, Sequence[Image]]:
    """Samples from the same noise: those of each teacher, and a row of each student."""
    return {**dict(_teacher_rows(found, names)), **{name: one.ends for name, one in zip(names, found, strict=True)}}


def _teacher_rows(found: Sequence[Findings], names: Sequence[str]) -> list[tuple[str, Sequence[Image]]]:
    """One row where all students have the same teacher, else one for each, by the name of its student."""
    teachers = [
        (name, student.teacher_ends)
        for name, student in zip(names, found, strict=True)
        if student.teacher_ends is not None
    ]
    if all(pictures == teachers[0][1] for _, pictures in teachers):
        return [("teacher", pictures) for _, pictures in teachers[:1]]
    return [(teacher_of(name), pictures) for name, pictures in teachers]


def teacher_of(name: str) -> str:
    """The name of the row of a student's own teacher."""
    return f"teacher of {name}"


def slice_figure(cut: Slice, name: str) -> Figure:
    """Density of x_0 on the way beside the velocity field, over raw time and the values of one channel."""
    from matplotlib.figure import Figure

    panels = 1 if cut.density is None else 2
    figure = Figure(figsize=(5.2 * panels, 3.9), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False, sharey=True)[0])
    raws, values = cut.raws.numpy(), cut.values.numpy()
    if cut.density is not None:
        left = axes[0]
        # A narrow density late on would leave everything before it black; of each time the highest is one.
        scaled = cut.density / cut.density.amax(dim=0, keepdim=True).clamp(min=1e-30)
        left.pcolormesh(raws, values, scaled.numpy(), cmap="Blues", vmin=0, vmax=1, shading="nearest", rasterized=True)
        left.plot(raws, cut.estimate.numpy(), color="#d9730d", linewidth=1.5, label="its mean, x_0")
        left.set(title="density of x_0 given the state (highest is dark)", ylabel=f"channel {cut.position.axis}")
    right = axes[-1]
    shade = right.pcolormesh(raws, values, cut.velocity.numpy(), cmap="RdBu_r", shading="nearest", **_symmetric(cut))
    shade.set_rasterized(True)
    right.plot(raws, cut.neighbours.T.numpy(), color="#555555", linewidth=0.6)
    right.plot(raws, cut.state.numpy(), color="black", linewidth=1.8, label="the state")
    if cut.density is None:
        right.plot(raws, cut.estimate.numpy(), color="#d9730d", linewidth=1.5, label="x_0")
        right.set(ylabel=f"channel {cut.position.axis}")
    right.set(title="velocity dx/dsigma, and rollouts through it", ylim=(values[0], values[-1]))
    figure.colorbar(shade, ax=right, label="velocity")
    for panel in axes:
        panel.set(xlabel="raw time")
        panel.title.set_fontsize(9)
        # Below, since nothing can be read before both colours on a light page and a dark one.
        panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    axes[0].invert_xaxis()
    if len(axes) > 1:
        axes[1].invert_xaxis()
    figure.suptitle(f"{name}: column {cut.position.x}, row {cut.position.y}, channel {cut.position.axis}", fontsize=10)
    return figure


def _symmetric(cut: Slice) -> dict[str, float]:
    """A colour scale with zero in the middle, which single large values near sigma 0 do not stretch."""
    limit = max(cut.velocity.abs().flatten().nanquantile(0.95).item(), 1e-6)
    return {"vmin": -limit, "vmax": limit}


def _cells(rows: int, columns: int, bar: bool = False) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(CELL * columns + 1.0, CELL * rows + (0.9 if bar else 0.3)), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False)
    for axes in cells.flat:
        axes.set(xticks=[], yticks=[])
    return figure, [list(row) for row in cells]


def _show(axes: Axes, image: Image) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
