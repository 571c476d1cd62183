"""Text-to-image students on disk, with pipelines around their bases."""

from __future__ import annotations

from pathlib import Path

from tiny_vae import tiny_vae
from zoo import Row, disturb, student_of, zoo_preset

from piflow_cli.students.adapters import save_adapter


def saved_student(row: Row, folder: Path) -> Path:
    """A moved student in ``folder``/adapter, on the pipeline ``folder``/base, which has a VAE."""
    _, preset = zoo_preset(row, folder)
    tiny_vae(row.family).save_pretrained(folder / "base" / "vae")
    student = student_of(row, row.build())
    student.facts = type(student.facts)(**{**vars(student.facts), "base": preset.teacher.base})
    disturb(student)
    save_adapter(student, folder / "adapter")
    return folder / "adapter"
