"""`piflow runs`: the students and runs in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from piflow_cli.commands.options import MODEL, Json, Quiet, examples, setting
from piflow_cli.console import Console, format_table
from piflow_cli.errors import UsageError
from piflow_cli.evaluation.metric_kinds import HEADLINE

if TYPE_CHECKING:
    from piflow_cli.evaluation.measured import ReportedNumber
    from piflow_cli.students.listing import ListedStudent

EXAMPLES = examples(
    ("piflow runs", "those in runs/"),
    ("piflow runs .", "all students here, exported ones too"),
    ("piflow runs --json", "the same for a program"),
    closing="It reads records and headers alone: piflow status RUN reads a run's checkpoint too.",
)
USUAL = "runs"
Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="A folder of runs and students; default: runs.")]
Evals = Annotated[str, setting("--evals", "The folder of reports, for the last FID; default: evals.", MODEL, "DIR")]
COLUMNS = ("run", "state", "teacher", "policy", "nfe", "iteration", "size", HEADLINE)


def runs(folder: Folder = USUAL, evals: Evals = "evals", json: Json = False, quiet: Quiet = False) -> None:
    """List the students and runs in a folder: state, teacher, policy, NFE, iteration, size and last FID."""
    console = Console(json=json, quiet=quiet)
    from piflow_cli.evaluation.measured import newest_numbers
    from piflow_cli.presets.places import expanded
    from piflow_cli.students.listing import students_below
    from piflow_cli.students.naming import student_place

    place = expanded(folder)
    if not place.is_dir() and folder != USUAL:
        raise UsageError(f"there is no folder {folder}", "name a folder of runs: piflow runs FOLDER")
    found = students_below(place)
    numbers = newest_numbers(expanded(evals))
    measured = [None if row.nfe is None else numbers.get((student_place(row.path), row.nfe)) for row in found]
    record = [{**asdict(row), HEADLINE: None if one is None else one.as_dict} for row, one in zip(found, measured)]
    console.result({"folder": folder, "students": record}, _text(folder, found, measured))


def _text(folder: str, found: Sequence[ListedStudent], measured: Sequence[ReportedNumber | None]) -> str:
    if not found:
        return f"There is no run or student in {folder}.\n  → to make one: piflow distill --teacher digits"
    table = format_table([_line(row, number) for row, number in zip(found, measured)], COLUMNS)
    return "\n".join([table, *(f"{row.path}: {row.why}" for row in found if row.why is not None)])


def _line(row: ListedStudent, number: ReportedNumber | None) -> Mapping[str, object]:
    asked = "" if row.iterations is None else f" of {row.iterations}"
    return {
        "run": row.path,
        "state": row.state,
        "teacher": row.teacher,
        "policy": row.policy if row.components is None else f"{row.policy}, {row.components}",
        "nfe": row.nfe,
        "iteration": None if row.iteration is None else f"{row.iteration}{asked}",
        "size": row.bytes,
        HEADLINE: None if number is None else f"{number.value:.4g}",
    }
