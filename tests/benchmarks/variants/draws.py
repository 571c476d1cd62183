"""Ideas 2 and 12: where along a path states are drawn, and which segments students are trained for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from piflow_cli.core.draws import SegmentDraws, StartDraws
from piflow_cli.core.timegrid import TimeGrid
from piflow_cli.training import loop

from .pieces import wrap


def denser(power: float) -> None:
    """Draw states at the ``power`` of their parts of the way: above 1 denser near the noise, below it near the data."""

    def around(draw_segment: Callable[..., SegmentDraws]) -> Callable[..., SegmentDraws]:
        def drawn(*given) -> SegmentDraws:
            found = draw_segment(*given)
            return found._replace(stops=found.stops**power)

        return drawn

    wrap(loop, "draw_segment", around)


def elastic(counts: Sequence[int]) -> None:
    """Draw for each sample the number of evaluations whose segment it is in, one of ``counts``.

    All sources must be among those of the run's own grid, which has the most evaluations.
    """

    def around(draw_start: object) -> Callable[..., StartDraws]:
        def drawn(shape: Sequence[int], grid: TimeGrid, generator: torch.Generator) -> StartDraws:
            count = shape[0]
            times = grid.start * (1 - torch.rand(count, generator=generator, dtype=torch.float64))
            noise = torch.randn(*shape, generator=generator)
            # What is drawn next is what it would have been.
            aside = torch.Generator().manual_seed(generator.initial_seed() + 1)
            chosen = torch.randint(len(counts), (1, count), generator=aside)
            grids = [TimeGrid(nfe, grid.final_step_scale, grid.shift, grid.noisiest) for nfe in counts]
            raws, lengths = (torch.stack(ends) for ends in zip(*(one.enclosing(times) for one in grids)))
            return StartDraws(raws.gather(0, chosen)[0], lengths.gather(0, chosen)[0], noise)

        return drawn

    wrap(loop, "draw_start", around)
