"""A student of several networks as students of one each, as pipelines hold them."""

from __future__ import annotations

from ..students.shared_base import PartView, View, root
from ..students.student import Student
from ..teachers.base import TeacherFamily
from ..teachers.text_to_image import TextToImageFamily

TRANSFORMER = "transformer"


def network_parts(family: TeacherFamily) -> tuple[str, ...]:
    """What the networks are called in pipelines of a family, and their folders there."""
    return tuple(family.own_parts) if isinstance(family, TextToImageFamily) else (TRANSFORMER,)


def by_part(student: Student) -> dict[str, Student]:
    """``student`` by the name of its network in pipelines; where it has two, a student of each."""
    family, model = student.family, student.model
    parts, networks = network_parts(family), family.networks(root(model))
    if len(parts) == 1:
        return {parts[0]: student}
    halves = (PartView(model, start) if isinstance(model, View) else network for start, network in networks.items())
    return {part: Student(family, half, student.facts, student.loras) for part, half in zip(parts, halves, strict=True)}
