"""Values that exclude each other where a teacher is two networks, of which each knows a part of the noise levels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from piflow_cli.core.segments import segment_length
from piflow_cli.presets.families import ON_EDGE, boundary_of
from piflow_cli.presets.faults import Contradiction, Mend
from piflow_cli.presets.schema import PolicySection, TeacherSection

DIGITS = 4  # after the point, of a shift that is told


def of_two_networks(teacher: TeacherSection, sections: Mapping[str, Any]) -> Iterator[Contradiction]:
    """What continues the name of a key, among valid ``sections`` of the ``teacher``."""
    boundary, second, family = boundary_of(teacher.family), teacher.guidance_2, ("teacher.family",)
    if boundary is None:
        if second is not None:
            what = f"is of a second network, and teachers of the family {teacher.family} have one: give null"
            yield Contradiction("teacher.guidance_2", what, (Mend("teacher.guidance_2", None),), family)
        return
    if second is not None and teacher.guidance == 1:
        what = f"is {second:g} beside teacher.guidance 1, which is none: give null"
        yield Contradiction("teacher.guidance_2", what, (Mend("teacher.guidance_2", None),), ("teacher.guidance",))
    if teacher.loras:
        yield Contradiction(
            "teacher.loras", "do not say of which of the teacher's two networks they are", causes=family
        )
    if (policy := sections.get("policy")) is not None:
        yield from _off_the_boundary(policy, boundary)


def shifts_onto(boundary: float, policy: PolicySection) -> list[float]:
    """The shifts under which a segment starts at the noise level ``boundary``: the second, the third and so on."""
    return [round(boundary * (1 - raw) / (raw * (1 - boundary)), DIGITS) for raw in _edges(policy)]


def _edges(policy: PolicySection) -> list[float]:
    """The raw times at which all segments but the first start."""
    length = segment_length(policy.nfe, policy.final_step_scale)
    return [1 - index * length for index in range(1, policy.nfe)]


def _off_the_boundary(policy: PolicySection, boundary: float) -> Iterator[Contradiction]:
    """A fault where no segment of a student starts on the ``boundary``, and the shifts under which one does."""
    if policy.nfe == 1:
        what = f"is 1, and a teacher of two networks needs a segment on each side of the noise level {boundary:g}"
        yield Contradiction("policy.nfe", what, (Mend("policy.nfe", 2),), ("teacher.family",))
        return
    levels = [policy.shift * raw / (1 + (policy.shift - 1) * raw) for raw in _edges(policy)]
    if any(abs(level - boundary) <= ON_EDGE for level in levels):
        return
    shifts = shifts_onto(boundary, policy)
    told = " or ".join(f"{shift:g} ({index} of {policy.nfe} above)" for index, shift in enumerate(shifts, 1))
    what = (
        f"is {policy.shift:g}, and no segment starts at the noise level {boundary:g}, where the second network takes"
        f" over: give {told}"
    )
    nearest = min(shifts, key=lambda shift: abs(shift - policy.shift))
    causes = ("policy.nfe", "policy.final_step_scale", "teacher.family")
    yield Contradiction("policy.shift", what, (Mend("policy.shift", nearest),), causes)
