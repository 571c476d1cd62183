"""The teacher that a student imitates, found by what the student says of itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..core.guidance import Guidance
from ..errors import UsageError
from ..presets.resolve import available, load
from ..students.facts import StudentFacts
from ..students.runs import RunFolder, read_settings
from ..students.shared_base import View, root
from ..students.student import Model, Student
from ..teachers import family_of
from ..teachers.base import Conditioning, TeacherFamily, guidance_of, teacher_velocity
from ..teachers.folders import teacher_folder
from .denoise import sample_teacher

if TYPE_CHECKING:
    from ..presets.schema import Preset


@dataclass(frozen=True)
class OwnTeacher:
    """A teacher under the guidance and the shift at which its student was distilled."""

    family: TeacherFamily
    model: Model
    guidance: Guidance
    shift: float

    def velocity(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Guided velocity (B, C, *S) at states ``x`` and noise levels (B,)."""
        return teacher_velocity(self.family, self.model, self.guidance, x, sigma, conditioning)

    def sample(self, noise: Tensor, conditioning: Conditioning, steps: int) -> Tensor:
        """Samples (B, C, *S) from ``noise`` by Euler steps, even in raw time."""
        return sample_teacher(self.family, self.model, noise, conditioning, steps, self.shift, self.guidance)


def own_teacher(student: Student, path: Path | None = None, teacher: str | None = None) -> OwnTeacher:
    """The teacher of ``student``, on the student's device.

    A student with adapters has it in its base; one that is trained in full names it. ``path``: where the student was
    opened; a run folder tells the settings of a teacher that is no shipped preset, and so does ``teacher``, the name or
    the file of a preset.

    Raises:
        UsageError: the preset, or the weights, of the teacher are not at hand.
        RunError: the Hub cannot be reached.
    """
    facts = student.facts
    section = replace(
        preset_of(facts, path, teacher).teacher,
        base=facts.base,
        revision=facts.revision or None,
        guidance=facts.guidance,
    )
    family = family_of(facts.family, facts.guidance)
    if isinstance(student.model, View):
        model: Model = student.model.shared.view("teacher")
    else:
        device = next(root(student.model).parameters()).device
        model = family.load(teacher_folder(family, section)).to(device)
    return OwnTeacher(family, model, guidance_of(section), facts.shift)


def preset_of(facts: StudentFacts, path: Path | None = None, teacher: str | None = None) -> Preset:
    """The settings of the preset ``teacher``; else of the run at ``path``;
    else of the preset that the student names."""
    if teacher is not None:
        return load(teacher)
    if path is not None:
        for folder in (path, path.parent):
            if (settings := RunFolder(folder).settings).is_file():
                return read_settings(settings)
    if facts.teacher not in available():
        raise UsageError(
            f"the student's teacher is {facts.teacher}, which is no shipped preset",
            "name the run folder that `piflow distill` wrote, or the file of the preset: --teacher FILE.yaml",
        )
    return load(facts.teacher)
