"""The one way from what a user typed to a student: it is found first, which is quick, and then loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import RunError, UsageError
from ..presets.families import frame_step_of, shown_a_picture
from ..presets.resolve import available, load
from ..teachers import family_of
from ..teachers.text_to_image import TextToImageFamily
from .adapters import load_adapter, read_facts
from .facts import StudentFacts
from .locate import StudentFiles, locate_student
from .run_settings import read_settings
from .runs import RunFolder, run_of
from .shared_base import View, root

if TYPE_CHECKING:
    from ..presets.schema import Preset
    from ..teachers.base import TeacherFamily
    from .student import Student


@dataclass(frozen=True)
class FoundStudent:
    """A student that was found, with its facts; its weights are still on disk.

    ``named``: as it was typed. ``teacher``: the preset that was asked for, if any. ``other_base``: a base in place of
    the student's own. ``changed``: files may differ from what was saved. ``say`` takes a line on what is assumed.
    """

    named: str
    files: StudentFiles
    facts: StudentFacts
    teacher: str | None = None
    other_base: str | None = None
    changed: bool = False
    say: Callable[[str], None] = lambda line: None

    @property
    def folder(self) -> Path:
        """The folder of its weights."""
        return self.files.weights.parent

    @property
    def family(self) -> TeacherFamily:
        """The family of its teacher, at the guidance that is distilled in."""
        return family_of(self.facts.family, self.facts.guidance)

    @property
    def base(self) -> tuple[str, str | None]:
        """The place of its base, and the revision."""
        return self.facts.base_at(self.other_base)

    @property
    def base_precision(self) -> str:
        """The precision of its base in training, as `--base-precision` has it."""
        return self.facts.base_precision

    def preset(self) -> Preset:
        """The preset that it was distilled with, as :func:`preset_of` finds it."""
        return preset_of(self.facts, self.folder, self.teacher)

    def refuse_beyond_pictures(self, command: str, *, videos: bool = False) -> None:
        """Raise UsageError where it makes videos or edits a picture, which ``command`` knows nothing to do with.

        ``videos``: those it knows.
        """
        if not videos and frame_step_of(self.facts.family) is not None:
            raise UsageError(
                f"{self.named} makes videos, and {command} is for students of pictures",
                f'look at its videos: piflow sample {self.named} "a red fox"',
            )
        if shown_a_picture(self.facts.family):
            raise UsageError(
                f"{self.named} edits a picture that it is shown, and {command} has none to show it",
                f'show it one: piflow sample {self.named} "make it night" --reference PICTURE',
            )

    def load(
        self,
        *,
        dtype: torch.dtype | None = torch.float32,
        precision: str | None = None,
        as_stored: bool = False,
    ) -> Student:
        """The student with its weights, on the CPU; arguments as in :func:`~piflow_cli.students.adapters.load_adapter`.

        Raises UsageError too where the student has no use for the base that was asked for.
        """
        student = load_adapter(
            self.files,
            self.facts,
            base=self.other_base,
            teacher=self.teacher,
            dtype=dtype,
            precision=precision,
            as_stored=as_stored,
            changed=self.changed,
            say=self.say,
        )
        # The base of a text-to-image student also has the text encoders and the VAE.
        needs_base = isinstance(student.model, View) or isinstance(student.family, TextToImageFamily)
        if self.other_base is not None and not needs_base:
            raise UsageError(
                "--base names the weights below adapters, and this student brings all of its own", "leave --base out"
            )
        return student


@dataclass(frozen=True)
class LoadedStudent:
    """A student in memory, for samplers that take a found one."""

    student: Student

    @property
    def named(self) -> str:
        """Its name in messages and recipes."""
        return f"a student of {self.facts.teacher}"

    @property
    def facts(self) -> StudentFacts:
        return self.student.facts

    @property
    def base(self) -> tuple[str, str | None]:
        """The place of its base, and the revision."""
        return self.facts.base_at()

    def preset(self) -> Preset:
        """The preset that it was distilled with, as :func:`preset_of` finds it."""
        return preset_of(self.facts)

    @property
    def base_precision(self) -> str:
        """The precision of its weights, as `--base-precision` has it; raises UsageError for one without a name."""
        dtype = root(self.student.model).dtype
        if dtype not in (torch.float32, torch.bfloat16):
            raise UsageError(f"{self.named} is in {dtype}", "load it in torch.float32 or torch.bfloat16")
        return "fp32" if dtype == torch.float32 else "bf16"

    def load(self, *, precision: str | None = None) -> Student:
        """The student itself."""
        return self.student


def find_student(
    named: str | Path,
    teacher: str | None = None,
    base: str | None = None,
    *,
    subfolder: str | None = None,
    changed: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> FoundStudent:
    """The student that a user calls ``named``, without its weights.

    Args:
        named: a run folder, an adapter folder, a file or an index of weights, or a Hub id, as
            :func:`~piflow_cli.students.locate.locate_student` takes them.
        teacher: the preset that it was distilled from, whose values hold where the student says nothing of itself.
        base: where the base of a student with adapters is, in place of what the student says.
        subfolder: inside ``named``.
        changed: take files that are not as they were saved.
        say: takes a line on what was assumed.

    Raises:
        UsageError: there is no student there, or it was distilled from another teacher.
        RunError: files are corrupt or do not belong together, or the Hub cannot be reached.
    """
    files = locate_student(named, subfolder)
    try:
        facts = read_facts(files, teacher=teacher, base=base, changed=changed, say=say)
    except RunError as error:
        raise RunError(error.message, _damage_hint(files, error.hint)) from error
    # Before the base is read, which may take minutes.
    _check_teacher(named, facts, teacher)
    return FoundStudent(str(named), files, facts, teacher, base, changed, say)


def _damage_hint(files: StudentFiles, hint: str | None) -> str | None:
    """What mends damaged files; a run writes its student again, and does not have it copied from elsewhere."""
    run = run_of(files.weights.parent)
    if run is None or hint is None or "copy" not in hint:
        return hint
    others = hint.partition("; ")[2]
    return f"write it again: {run.command()}{'; ' * bool(others)}{others}"


def open_student(
    named: str | Path,
    teacher: str | None = None,
    base: str | None = None,
    *,
    subfolder: str | None = None,
    changed: bool = False,
    say: Callable[[str], None] = lambda line: None,
    dtype: torch.dtype | None = torch.float32,
    precision: str | None = None,
    as_stored: bool = False,
) -> Student:
    """:func:`find_student` and :meth:`FoundStudent.load` in one."""
    found = find_student(named, teacher, base, subfolder=subfolder, changed=changed, say=say)
    return found.load(dtype=dtype, precision=precision, as_stored=as_stored)


def preset_of(facts: StudentFacts, folder: Path | None = None, teacher: str | None = None) -> Preset:
    """The settings that a student was distilled with.

    They are those of the preset ``teacher``; else of the run that ``folder`` is, or lies in; else of the preset that
    the student names.

    Raises UsageError where that is no shipped preset.
    """
    if teacher is not None:
        return load(teacher)
    if folder is not None:
        for place in (folder, folder.parent):
            if (settings := RunFolder(place).settings).is_file():
                return read_settings(settings)
    if facts.teacher not in available():
        raise UsageError(
            f"the student's teacher is {facts.teacher}, which is no shipped preset",
            "name the run folder that `piflow distill` wrote, or the file of the preset: --teacher FILE.yaml",
        )
    return load(facts.teacher)


def _check_teacher(named: str | Path, facts: StudentFacts, teacher: str | None) -> None:
    """Raise UsageError where the student was trained for another teacher; None is any."""
    if teacher is not None and (name := load(teacher).name) != facts.teacher:
        raise UsageError(
            f"{named} was trained for the teacher {facts.teacher}, not {name}",
            f"leave --teacher out, or distil one: piflow distill --teacher {teacher}",
        )
