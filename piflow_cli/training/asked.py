"""What the teacher is asked in a step: known on the host, which has drawn all times, before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.draws import SegmentDraws, StartDraws
from ..core.imitation import query_sigmas
from ..teachers.base import guided_rows
from .settings import student_evaluations

if TYPE_CHECKING:
    from .loop import Session


def plan_queries(
    session: Session, ratio: float, draws: Sequence[SegmentDraws], start: StartDraws | None = None
) -> tuple[Tensor, ...]:
    """The rows (n,) int64 of each query of a round whose other half of guidance is asked for, in the order of queries.

    ``draws``: of the segments of trajectories, or of the one from ``start``; in host memory, as the rows. What is asked
    is counted in ``session.asked``.
    """
    sigmas = _sigmas(session, ratio, draws, start)
    rows = tuple(guided_rows(session.guidance, sigma) for sigma in sigmas)
    if session.sharded and session.guidance.scale != 1:
        # Processes that share the weights out must call the network equally often, whatever each has drawn.
        rows = tuple(found if len(found) else torch.zeros(1, dtype=torch.int64) for found in rows)
    session.asked += sum(len(sigma) + len(found) for sigma, found in zip(sigmas, rows, strict=True))
    return rows


def _sigmas(session: Session, ratio: float, draws: Sequence[SegmentDraws], start: StartDraws | None) -> list[Tensor]:
    config = session.config
    if start is not None:
        return query_sigmas(start.raw, start.length, config, ratio, draws[0])
    found = []
    for (upper, lower), drawn in zip(pairwise(config.grid.edges), draws, strict=True):
        raw = torch.full_like(drawn.stops[0], upper)
        found += query_sigmas(raw, torch.full_like(raw, upper - lower), config, ratio, drawn)
    return found


def count_evaluations(session: Session, asked: Sequence[int]) -> list[int]:
    """Network evaluations of the run, on all processes, until each of some steps in which this one asked so often.

    All processes of a run must call this for the same steps.
    """
    accelerator = session.accelerator
    if accelerator.num_processes > 1:
        asked = accelerator.reduce(torch.tensor(asked, device=accelerator.device), reduction="sum").tolist()
    student = student_evaluations(session.preset)
    _, *totals = accumulate((student + count for count in asked), initial=session.evaluations)
    session.evaluations = totals[-1]
    return totals
