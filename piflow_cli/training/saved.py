"""Whether the student on disk is the one of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import PiflowError, is_of_the_system
from ..students.adapters import adapter_tensors
from ..students.open import find_student
from ..students.student import Student
from ..weights.stored import StoredWeights


def is_saved(student: Student, folder: Path) -> bool:
    """Whether ``folder`` holds this very student: its facts, iteration among them, its config and all its values.

    A folder that is missing or damaged holds none. Raises what the system says where it cannot be read.
    """
    try:
        found = find_student(folder)
        if found.facts != student.facts or found.files.config is None:
            return False
        stored, own = StoredWeights(found.files.weights), adapter_tensors(student)
        return set(stored) == own.keys() and all(torch.equal(stored.read(name), value) for name, value in own.items())
    except (PiflowError, FileNotFoundError):
        return False
    except Exception as error:
        # Damage of any kind has one cure: the student is written again.
        if is_of_the_system(error):
            raise
        return False
