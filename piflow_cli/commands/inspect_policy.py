"""`piflow inspect-policy`: the policies of a student's network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from piflow_cli.commands.inspect_options import At, Compare, Output, Seeds, Slice
from piflow_cli.commands.options import (
    Base,
    BasePrecision,
    Device,
    Json,
    Overwrite,
    Quiet,
    Subfolder,
    Teacher,
    TextColumn,
    examples,
    read_options,
)
from piflow_cli.commands.sample_options import Frames, Height, Labels, Prompts, PromptsFrom, Student, Vae, Width
from piflow_cli.console import Console, format_table
from piflow_cli.errors import UsageError
from piflow_cli.students.naming import student_name
from piflow_cli.system.outputs import output_folder

if TYPE_CHECKING:
    from piflow_cli.inspection.request import Position

EXAMPLES = examples(
    ("piflow inspect-policy runs/digits", "a report of 16 digits"),
    ("piflow inspect-policy runs/digits --slice 3,4", "a cut through one pixel"),
    ("piflow inspect-policy runs/flux-dev fox --at 4", "the last evaluation"),
    ("piflow inspect-policy --compare runs/gm runs/dx", "two students, one report"),
    closing="The report is policy.html in the output folder, with its numbers in policy.json.",
)


def inspect_policy(
    context: typer.Context,
    student: Student = None,
    prompts: Prompts = None,
    compare: Compare = None,
    at: At = 1,
    slice: Slice = None,
    subfolder: Subfolder = None,
    teacher: Teacher = None,
    base: Base = None,
    vae: Vae = None,
    base_precision: BasePrecision = None,
    device: Device = "auto",
    prompts_from: PromptsFrom = None,
    text_column: TextColumn = None,
    height: Height = None,
    width: Width = None,
    frames: Frames = None,
    labels: Labels = None,
    seeds: Seeds = None,
    output: Output = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """See what a student's network decided, and how its policy holds against the teacher.

    Writes policy.html (one page, nothing fetched), policy.json and the pictures.
    """
    students, prompts = _students(student, prompts, compare)
    position = None if slice is None else parse_slice(slice)
    same = ("prompts_from", "text_column", "height", "width", "frames", "at", "teacher", "base", "subfolder", "vae")
    told = read_options(context, *same, "base_precision", "overwrite", "device", "labels", "seeds")
    console = Console(json=json, quiet=quiet)
    from piflow_cli.inspection.early import check
    from piflow_cli.inspection.request import InspectRequest

    request = InspectRequest(
        students=students,
        prompts=tuple(prompts),
        position=position,
        output=output_folder(output, _folder(students, subfolder), overwrite),
        **told,
    )
    check(request)
    # Takes seconds to import.
    from piflow_cli.inspection.inspect import inspect_policy as inspect

    with console.listening():
        result = inspect(request, console)
    rows = result["verdict"]
    console.result(result, format_table(rows, list(rows[0])))
    console.say(f"report in {result['files'][0]}")


def parse_slice(text: str) -> Position:
    """`X,Y` or `X,Y,AXIS`, whole numbers from 0: column, row and channel of the state."""
    if re.fullmatch(r"\d{1,9}(,\d{1,9}){1,2}", text) is None:
        raise UsageError(
            f"--slice {text}: not a column and a row, or those and a channel, from 0",
            "write it like --slice 3,4 or --slice 3,4,0",
        )
    from piflow_cli.inspection.request import Position

    return Position(*map(int, text.split(",")))


def _students(
    student: str | None, prompts: list[str] | None, compare: tuple[str, str] | None
) -> tuple[tuple[str, ...], list[str]]:
    """The students to inspect, and the prompts: with --compare the first argument is a prompt too."""
    prompts = [] if prompts is None else prompts
    if compare is None:
        if student is None:
            raise UsageError("no student given", "type piflow inspect-policy FOLDER, or --compare A B")
        return (student,), prompts
    if compare[0] == compare[1]:
        raise UsageError(
            f"--compare: {compare[0]} is named twice, and would lie over itself",
            f"type piflow inspect-policy {compare[0]}",
        )
    if student is not None and " " not in student.strip():
        raise UsageError(
            f"{student} is given, and --compare too, which names both students",
            f"type --compare {compare[0]} {compare[1]} alone",
        )
    return compare, prompts if student is None else [student, *prompts]


def _folder(students: tuple[str, ...], subfolder: str | None) -> Path:
    """inspection/digits for the student in runs/digits, inspection/a-b for two."""
    return Path("inspection") / "-".join(student_name(student, subfolder) for student in students)
