"""The random numbers of a pi-ID step, all drawn on the host before it begins.

So a run does not depend on its device, and a GPU takes them in one copy (:func:`~piflow_cli.core.tensors.to_device`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .constants import ImitationConfig
    from .timegrid import TimeGrid


class SegmentDraws(NamedTuple):
    """Random numbers of one segment.

    ``stops`` (S, B) and ``cuts`` (S - 1, B): uniforms in ascending order along the first axis, float64. ``dropped`` (B,
    K) bool: the components that the walk leaves out; None leaves out none.
    """

    stops: Tensor
    cuts: Tensor
    dropped: Tensor | None


class StartDraws(NamedTuple):
    """Where segments from data begin: raw times and lengths (B,) float64, and the ``noise`` (B, C, *S) put on data."""

    raw: Tensor
    length: Tensor
    noise: Tensor


def draw_segment(batch: int, config: ImitationConfig, generator: torch.Generator | None = None) -> SegmentDraws:
    """The random numbers of one segment of ``batch`` trajectories, on the CPU."""
    dropped = draw_dropped(batch, config.components, config.dropout, generator)
    stops = torch.rand(config.states, batch, generator=generator, dtype=torch.float64).sort(dim=0).values
    cuts = torch.rand(config.states - 1, batch, generator=generator, dtype=torch.float64).sort(dim=0).values
    return SegmentDraws(stops, cuts, dropped)


def draw_segments(
    batch: int, config: ImitationConfig, generator: torch.Generator | None = None
) -> tuple[SegmentDraws, ...]:
    """The random numbers of all segments of ``batch`` trajectories from noise, on the CPU."""
    return tuple(draw_segment(batch, config, generator) for _ in range(config.grid.nfe))


def draw_start(shape: Sequence[int], grid: TimeGrid, generator: torch.Generator | None = None) -> StartDraws:
    """Sources of the segments that hold uniformly drawn raw times, for data of ``shape`` (B, C, *S), on the CPU."""
    raw, length = grid.enclosing(grid.start * (1 - torch.rand(shape[0], generator=generator, dtype=torch.float64)))
    return StartDraws(raw, length, torch.randn(*shape, generator=generator))


def draw_dropped(
    batch: int, components: int, probability: float, generator: torch.Generator | None = None
) -> Tensor | None:
    """The components (B, K) bool to leave out, each with ``probability``; None where that is 0.

    Where all components of a sample would fall, all stay (arXiv 2510.14974, GM dropout).
    """
    if probability == 0:
        return None
    dropped = torch.rand(batch, components, generator=generator) < probability
    return dropped & ~dropped.all(dim=1, keepdim=True)
