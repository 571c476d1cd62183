"""The request of an export, and the interface of formats: check, write, and read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from ..packages import object_at
from ..students.naming import student_name

if TYPE_CHECKING:
    from ..console import Console
    from ..students.facts import StudentFacts
    from ..students.open import FoundStudent
    from ..students.student import Student

CARD_NAME = "README.md"
TAG = "pi-flow"  # in every card
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Names of --dtype → those of torch."""


@dataclass(frozen=True)
class ExportRequest:
    """The command's options; None stands for "as the student has it".

    ``student``: run or adapter folder, .safetensors file or Hub id, ``subfolder`` inside it. ``dtype``: a key of
    DTYPES. ``rank``: largest of the adapters. ``base``: the base in place of the student's own; ``with_base``: whether
    a self-contained folder holds it or only names it. ``quantise``: precision of a merged base. ``push_to_hub``:
    repository ``owner/name`` that takes the folder, ``private`` or not. ``teacher``: preset of a student that says
    nothing of itself. ``prompts``: of the pictures on the card of a text-to-image student. ``changed``: take an adapter
    that is not as it was saved.
    """

    student: str
    format: str
    output: Path
    dtype: str | None = None
    rank: int | None = None
    base: str | None = None
    with_base: bool = True
    quantise: str | None = None
    overwrite: bool = False
    push_to_hub: str | None = None
    private: bool = False
    subfolder: str | None = None
    teacher: str | None = None
    device: str = "auto"
    prompts: tuple[str, ...] = ()
    changed: bool = False

    def find(self, say: Callable[[str], None] = lambda line: None) -> FoundStudent:
        """The student that is named, without its weights; ``say`` takes a line on what was assumed."""
        # Takes seconds to import, and `piflow --help` reads the table of formats.
        from ..students.open import find_student

        return find_student(
            self.student, self.teacher, self.base, subfolder=self.subfolder, changed=self.changed, say=say
        )


def usual_folder(student: str, subfolder: str | None, format: str) -> Path:
    """exports/digits-adapter for the student in runs/digits."""
    return Path("exports") / f"{student_name(student, subfolder)}-{format}"


class ExportFormat(Protocol):
    """A format in which students are written.

    The driver calls :meth:`check`, opens the student, hands :meth:`write` an empty folder, adds the model card, and
    keeps the folder if :meth:`verify` gives no more than :meth:`tolerance`.
    """

    name: str

    def check(self, facts: StudentFacts, request: ExportRequest) -> None:
        """Raise UsageError for options that the format lacks, or lacks for this student; no weights are loaded yet."""

    def write(self, student: Student, folder: Path, request: ExportRequest, console: Console) -> dict[str, object]:
        """Write the student into the empty ``folder``, leaving it as it is in memory; returns facts for the report."""

    def verify(self, student: Student, folder: Path, request: ExportRequest) -> float:
        """The largest relative difference from ``student``, of ``folder`` read as its users read it, at fixed inputs.

        :mod:`~piflow_cli.exporting.verify` has the inputs and the measure.
        """

    def tolerance(self, request: ExportRequest) -> float:
        """The largest difference that rounding to the dtype asked for explains."""

    def snippet(self, facts: StudentFacts, place: str, sizes: str = "") -> str:
        """Python that samples from the folder or repository ``place``, for the model card.

        ``sizes``: arguments of a pipeline's call, as :func:`~piflow_cli.exporting.card.sizes_told` has them.
        """


@dataclass(frozen=True)
class FormatKind:
    """A row: a format, and what the rest of piflow knows about it; its module is imported when it is used.

    Attributes:
        writer: "module:Class" of its ExportFormat.
        relation: the relation to the base, in the words of the Hub's model cards.
        any_steps: whether the export can be sampled with other numbers of evaluations than the student's.
        mends: whether it takes an adapter whose checksums differ, and writes new ones.
    """

    name: str
    writer: str
    relation: Literal["adapter", "finetune"] = "finetune"
    any_steps: bool = True
    mends: bool = False

    def open(self) -> ExportFormat:
        """The format itself."""
        return object_at(self.writer)()
