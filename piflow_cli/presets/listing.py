"""The rows of `--list-teachers`."""

from __future__ import annotations

from typing import TypedDict

from piflow_cli.presets.families import family_kind, family_names
from piflow_cli.presets.resolve import available, load


class TeacherRow(TypedDict):
    """A shipped preset: its student, the memory it takes, and the licence of its teacher."""

    name: str
    family: str
    policy: str
    nfe: int
    memory: str
    licence: str


def teacher_rows() -> list[TeacherRow]:
    """A row for each shipped preset, in the order of their names.

    Raises RunError where another package brings a family that cannot be used.
    """
    for family in family_names():
        family_kind(family)
    return [
        {
            "name": name,
            "family": preset.teacher.family,
            "policy": preset.policy.kind,
            "nfe": preset.policy.nfe,
            "memory": preset.teacher.memory,
            "licence": preset.teacher.license,
        }
        for name, preset in ((name, load(name)) for name in available())
    ]
