"""From what a user typed to a student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..presets.resolve import load
from .adapters import load_adapter, read_facts
from .locate import locate_student
from .shared_base import View

if TYPE_CHECKING:
    from .facts import StudentFacts
    from .student import Student


def open_student(
    path: str | Path,
    teacher: str | None = None,
    base: str | None = None,
    *,
    subfolder: str | None = None,
    **options: Any,
) -> Student:
    """The student at ``path``, as :func:`~piflow_cli.students.locate.locate_student` takes it, on ``base`` in place of
    its own if it is one of adapters; ``options`` are those of :func:`~piflow_cli.students.adapters.load_adapter`.

    Raises UsageError where it was trained for another than ``teacher``, or has no use for a base.
    """
    files = locate_student(path, subfolder)
    if teacher is not None:
        # Before the base is read, which may take minutes.
        check_teacher(path, read_facts(files, teacher=teacher, base=base), teacher)
    student = load_adapter(files, base=base, teacher=teacher, **options)
    if base is not None and not isinstance(student.model, View):
        raise UsageError(
            "--base names the weights below adapters, and this student brings all of its own", "leave --base out"
        )
    return student


def check_teacher(path: str | Path, facts: StudentFacts, teacher: str | None) -> None:
    """Raise UsageError where the student at ``path`` was trained for another than ``teacher``; None is any."""
    if teacher is not None and (name := load(teacher).name) != facts.teacher:
        raise UsageError(
            f"{path} was trained for the teacher {facts.teacher}, not {name}",
            f"leave --teacher out, or distil one: piflow distill --teacher {teacher}",
        )
