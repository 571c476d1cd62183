"""What a run leaves on disk while it trains: checkpoints, and the averaged student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import PiflowError, is_of_the_system
from ..students.adapters import adapter_tensors, save_adapter
from ..students.open import find_student
from ..students.student import Student
from ..weights.stored import StoredWeights
from .checkpoints import save_checkpoint, training_tensors

if TYPE_CHECKING:
    from ..students.runs import RunFolder
    from .loop import Session
    from .metrics import Metrics


def save(session: Session, run: RunFolder, metrics: Metrics | None) -> None:
    """Write a checkpoint and the student, on the process that has ``metrics``.

    Where processes share the weights out, all of them gather what that one writes. They do so before it writes: a full
    disk leaves nobody waiting.
    """
    student = session.average.at(session.iteration)
    if metrics is not None or session.sharded:
        tensors, own = training_tensors(session.state), adapter_tensors(student)
        if metrics is not None:
            metrics.sync()
            kept = session.preset.output
            save_checkpoint(
                run.checkpoints, session.state, kept.keep_checkpoints, kept.keep_every, metrics.digest, tensors
            )
            save_adapter(student, run.adapter, own)
    session.accelerator.wait_for_everyone()


def save_again(session: Session, run: RunFolder, first: bool) -> bool:
    """Write the student of a restored checkpoint, on the ``first`` process, where something else lies there."""
    student = session.average.at(session.iteration)
    own = adapter_tensors(student) if first or session.sharded else {}
    if not first or is_saved(student, run.adapter, own):
        return False
    save_adapter(student, run.adapter, own)
    return True


def is_saved(student: Student, folder: Path, own: dict[str, Tensor]) -> bool:
    """Whether ``folder`` holds this very student: its facts, iteration among them, its config and ``own``, its tensors.

    A folder that is missing or damaged holds none. Raises what the system says where it cannot be read.
    """
    try:
        found = find_student(folder)
        if found.facts != student.facts or found.files.config is None:
            return False
        stored = StoredWeights(found.files.weights)
        return set(stored) == own.keys() and all(torch.equal(stored.read(name), value) for name, value in own.items())
    except (PiflowError, FileNotFoundError):
        return False
    except Exception as error:
        # Damage of any kind has one cure: the student is written again.
        if is_of_the_system(error):
            raise
        return False
