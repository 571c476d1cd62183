"""What each segment of the time grid adds to the loss of a step, gathered without a wait for the device."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..core.timegrid import TimeGrid


class SegmentLosses:
    """The losses of the ``grid``'s segments over all rounds of a step."""

    def __init__(self, grid: TimeGrid) -> None:
        self._grid = grid
        self._parts: list[Tensor | None] = [None] * grid.nfe
        self._sampled: Tensor | None = None

    def add_segment(self, index: int, loss: Tensor) -> None:
        """Count what one segment of whole trajectories adds to the loss."""
        before = self._parts[index]
        self._parts[index] = loss if before is None else before + loss

    def add_samples(self, losses: Tensor, members: Tensor, rounds: int) -> None:
        """Count the ``losses`` (B,) of samples, of which each is in one segment: ``members`` (nfe, B), zeros and ones.

        The loss of the step is the mean over ``rounds`` such batches.
        """
        members = members.to(losses.dtype)
        # A product and a sum: their order is the same whenever it is computed.
        counted = torch.stack([(members * losses).sum(dim=1), members.sum(dim=1)]) / (len(losses) * rounds)
        self._sampled = counted if self._sampled is None else self._sampled + counted

    def beside(self, loss: Tensor) -> Tensor:
        """``loss`` (scalar) and what :func:`read_losses` needs, in one vector, which processes exchange at once."""
        if self._sampled is not None:
            return torch.cat([loss.reshape(1), self._sampled.flatten()])
        return torch.stack([loss, *(part for part in self._parts if part is not None)])


def membership(raw: Tensor, grid: TimeGrid) -> Tensor:
    """Which samples (B,) are in which segment, (nfe, B) bool; ``raw``: the sources of their segments."""
    edges = torch.tensor(grid.edges[:-1], dtype=torch.float64, device=raw.device)
    return edges.unsqueeze(1) == raw.unsqueeze(0)


def read_losses(numbers: Sequence[float], grid: TimeGrid) -> tuple[float, list[float | None]]:
    """The loss in what :meth:`SegmentLosses.beside` gave, and the mean loss of each segment.

    The means, by the raw lengths of their segments or by the shares of the samples in them, average to the loss of
    imitation, which is all of it without an energy distance. A segment without a sample has none.
    """
    loss, parts, weights = numbers[0], numbers[1 : 1 + grid.nfe], numbers[1 + grid.nfe :]
    if not weights:
        weights = [upper - lower for upper, lower in pairwise(grid.edges)]
    return loss, [None if weight == 0 else part / weight for part, weight in zip(parts, weights, strict=True)]
