"""The curve of a DX policy: x_0 as a function of raw time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.policies.dx import DXPolicy
from ..tensors import root_mean
from .anatomy import Anatomy
from .figures import grid_figure

CURVE_POINTS = 9


class Curve(NamedTuple):
    """The x_0 of one evaluation as a function of raw time, at even times from the segment's end to its source.

    ``slope`` (B, N-1) and ``curvature`` (B, N-2): root mean squares over positions and channels of the first and the
    second derivative with respect to raw time, from differences; ``travel`` (B,): that of x_0 at the end minus x_0 at
    the source.
    """

    slope: Tensor
    curvature: Tensor
    travel: Tensor


def curve(policy: DXPolicy) -> Curve:
    """x_0 of a DX policy at times of the segment (pi-Flow, arXiv 2510.14974, section 3.1).

    A grid is read at its own N points, a polynomial at CURVE_POINTS.
    """
    points = CURVE_POINTS if policy.polynomial else policy.grid.shape[1]
    shares = torch.linspace(1, 0, points, dtype=torch.float64).tolist()
    raws = [policy.raw_src - policy.length * share for share in shares]
    values = torch.stack([policy.posterior_mean(policy.x_src, raw) for raw in raws], dim=1)
    step = policy.length[:, None] / max(points - 1, 1)
    first = values.diff(dim=1)

    def magnitude(value: Tensor) -> Tensor:
        return value.flatten(2).square().mean(dim=2).sqrt()

    return Curve(
        slope=magnitude(first) / step,
        curvature=magnitude(first.diff(dim=1)) / step**2,
        travel=magnitude(values[:, -1:] - values[:, :1]).squeeze(1),
    )


@dataclass(frozen=True)
class GridSummary:
    """Root mean squares of slope and curvature of x_0 between the points at ``raws``, the source last."""

    raws: list[float]
    slope: list[float]
    curvature: list[float]
    travel: float


def summarise(found: Curve, switching: None, source: float, span: float) -> GridSummary:
    """The curves of all samples as one, from raw time ``source`` over ``span``, as far as raw time 0."""
    span = min(span, source)
    # A single point has no slope, and two have no curvature.
    gaps = found.slope.shape[1]
    return GridSummary(
        raws=[source - span * (gaps - index) / max(gaps, 1) for index in range(gaps + 1)],
        slope=root_mean(found.slope.square()),
        curvature=root_mean(found.curvature.square()),
        travel=found.travel.square().mean().sqrt().item(),
    )


def lines(grid: GridSummary) -> Iterator[tuple[str, str]]:
    """The lines of the verdict on it."""
    highest = (
        f"{max(grid.curvature):.2f} per squared raw time" if grid.curvature else "none: it has fewer than 3 points"
    )
    yield "curvature of x_0", highest


ANATOMY = Anatomy(
    name="grid",
    heading="Composition: x_0 over time",
    text="A DX policy says where x_0 is at each time of the segment. Where it bends, points are well spent.",
    colours=("#d9730d", "#a6761d"),
    by_sample=curve,
    summarise=summarise,
    lines=lines,
    figure=grid_figure,
)
