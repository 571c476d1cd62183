"""What an iteration leaves in metrics.jsonl, read from the device now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..core.imitation import teacher_ratio
from ..system.devices import peak_memory
from .asked import count_evaluations
from .optimizer import learning_rate
from .segments import read_losses
from .settings import student_evaluations

if TYPE_CHECKING:
    from .loop import Session


def take_pending(session: Session) -> list[dict[str, Any]]:
    """Rows for metrics.jsonl of the iterations since the last call: one wait for the device in all.

    Times are those of the first process, and peak memory that of the one which has taken most.
    """
    pending, session.pending = session.pending, []
    if not pending:
        return []
    losses = torch.stack([row["losses"] for row in pending]).tolist()
    norms = torch.stack([torch.as_tensor(row["gradient_norm"]) for row in pending]).tolist()
    asked, student = [row["asked"] for row in pending], student_evaluations(session.preset)
    counts = count_evaluations(session.accelerator, session.evaluations, student, asked)
    session.evaluations, peak = counts[-1], _peak_memory(session)
    rows = []
    for row, numbers, norm, count in zip(pending, losses, norms, counts, strict=True):
        loss, segments = read_losses(numbers, session.config.grid)
        done, seconds = row["iteration"], row["clock"].seconds()
        rows.append(
            {
                "iteration": done,
                "loss": loss,
                "segment_losses": segments,
                "gradient_norm": norm,
                "teacher_ratio": teacher_ratio(done - 1, session.preset.imitation.mixing_iterations),
                "learning_rate": learning_rate(done - 1, session.preset.optimisation, session.stretches),
                "evaluations": count,
                "skipped": row["skipped"],
                "samples_per_second": _short(session.preset.optimisation.batch_size / seconds["step"]),
                "peak_memory": peak,
                "seconds": {part: _short(value) for part, value in seconds.items()},
            }
        )
    return rows


def _peak_memory(session: Session) -> int | None:
    """The most memory in bytes that any process has had at once until now; None where this system does not say."""
    own, accelerator = peak_memory(session.accelerator.device), session.accelerator
    if own is None or accelerator.num_processes == 1:
        return own
    return int(accelerator.gather(torch.tensor([own], device=accelerator.device)).max())


def _short(value: float) -> float:
    """A measured ``value`` without the digits that mean nothing."""
    return float(f"{value:.4g}")
