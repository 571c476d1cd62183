"""What the teacher is asked in a step: known on the host, which has drawn all times, before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..core.constants import ImitationConfig
from ..core.draws import SegmentDraws, StartDraws
from ..core.guidance import Guidance
from ..core.imitation import query_sigmas
from ..teachers.base import guided_rows

if TYPE_CHECKING:
    from accelerate import Accelerator


class Queries(NamedTuple):
    """The queries of a round.

    ``rows`` (n,) int64 of each in their order: the states whose other half of guidance is asked for, in host memory.
    ``evaluations``: of one state each, that the teacher's network makes in all of them.
    """

    rows: tuple[Tensor, ...]
    evaluations: int


def plan_queries(
    config: ImitationConfig,
    guidance: Guidance,
    ratio: float,
    draws: Sequence[SegmentDraws],
    start: StartDraws | None = None,
    *,
    sharded: bool = False,
) -> Queries:
    """What a teacher under ``guidance`` will be asked in a round.

    ``draws``: of all segments of trajectories, or of the one that begins at ``start``; in host memory. ``sharded``:
    processes share the weights out, and must call the network equally often, whatever each has drawn.
    """
    sigmas = _sigmas(config, ratio, draws, start)
    rows = tuple(guided_rows(guidance, sigma) for sigma in sigmas)
    if sharded and guidance.scale != 1:
        rows = tuple(found if len(found) else torch.zeros(1, dtype=torch.int64) for found in rows)
    return Queries(rows, sum(map(len, sigmas)) + sum(map(len, rows)))


def _sigmas(
    config: ImitationConfig, ratio: float, draws: Sequence[SegmentDraws], start: StartDraws | None
) -> list[Tensor]:
    if start is not None:
        return query_sigmas(start.raw, start.length, config, ratio, draws[0])
    found = []
    for (upper, lower), drawn in zip(pairwise(config.grid.edges), draws, strict=True):
        raw = torch.full_like(drawn.stops[0], upper)
        found += query_sigmas(raw, torch.full_like(raw, upper - lower), config, ratio, drawn)
    return found


def count_evaluations(accelerator: Accelerator, before: int, student: int, asked: Sequence[int]) -> list[int]:
    """Network evaluations of a run on all processes until each of some steps.

    ``before``: until the first of them; ``student``: those of the student in one step of all processes; ``asked``:
    those of the teacher that this process took in each. All processes must call this for the same steps.
    """
    if accelerator.num_processes > 1:
        asked = accelerator.reduce(torch.tensor(asked, device=accelerator.device), reduction="sum").tolist()
    return list(accumulate((student + count for count in asked), initial=before))[1:]
