"""The teacher that a student imitates, found by the student's facts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..core.guidance import Guidance
from ..errors import UsageError
from ..students.facts import StudentFacts
from ..students.fused_loras import told_loras
from ..students.open import preset_of
from ..students.shared_base import View
from ..students.student import Student
from ..teachers import family_of
from ..teachers.base import Conditioning, Network, TeacherFamily, guidance_of, teacher_velocity
from ..teachers.folders import on_base, teacher_folder
from .denoise import sample_teacher

if TYPE_CHECKING:
    from ..presets.schema import TeacherSection


@dataclass(frozen=True)
class OwnTeacher:
    """A teacher under the guidance and the shift at which its student was distilled."""

    family: TeacherFamily
    model: Network
    guidance: Guidance
    shift: float

    def velocity(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Guided velocity (B, C, *S) at states ``x`` and noise levels (B,)."""
        return teacher_velocity(self.family, self.model, self.guidance, x, sigma, conditioning)

    def sample(self, noise: Tensor, conditioning: Conditioning, steps: int) -> Tensor:
        """Samples (B, C, *S) from ``noise`` by Euler steps, even in raw time."""
        return sample_teacher(self.family, self.model, noise, conditioning, steps, self.shift, self.guidance)


def own_section(facts: StudentFacts, folder: Path | None = None, teacher: str | None = None) -> TeacherSection:
    """The settings of a student's teacher, with the weights and the guidance of the distillation."""
    section = on_base(preset_of(facts, folder, teacher).teacher, *facts.base_at())
    return replace(section, guidance=facts.guidance)


def own_teacher(student: Student, folder: Path | None = None, teacher: str | None = None) -> OwnTeacher:
    """The teacher of ``student``, on the student's device.

    A student with adapters has it in its base; one that is trained in full names it. ``folder``: where the student's
    weights are; a run folder tells the settings of a teacher that is no shipped preset, and so does ``teacher``, the
    name or the file of a preset.

    Raises:
        UsageError: the preset, the weights or the LoRAs of the teacher are not at hand.
        RunError: the Hub cannot be reached.
    """
    facts = student.facts
    section = own_section(facts, folder, teacher)
    family = family_of(facts.family, facts.guidance)
    if isinstance(student.model, View):
        model: Network = student.model.shared.view("teacher")
    elif facts.teacher_loras:
        raise UsageError(
            f"the teacher had LoRAs ({told_loras(facts.teacher_loras)}), which are not beside this student",
            "name the run that it was distilled in",
        )
    else:
        model = family.load(teacher_folder(family, section)).to(student.device)
    return OwnTeacher(family, model, guidance_of(section), facts.shift)
