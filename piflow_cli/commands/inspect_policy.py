"""`piflow inspect-policy`: what a student's network decided."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piflow_cli.commands.options import (
    MODEL,
    OUTPUT,
    SAMPLING,
    Base,
    BasePrecision,
    Device,
    Json,
    Quiet,
    Subfolder,
    Teacher,
    examples,
    parse_ranges,
    setting,
    switch,
)
from piflow_cli.console import Console, format_table
from piflow_cli.errors import UsageError
from piflow_cli.naming import student_name

if TYPE_CHECKING:
    from piflow_cli.inspection.slices import Place

LOOK = "Look at"
EXAMPLES = examples(
    ("piflow inspect-policy runs/digits", "a report of 16 digits"),
    ("piflow inspect-policy runs/digits --slice 3,4", "a cut through one pixel"),
    ("piflow inspect-policy runs/flux-dev fox --at 4", "the last evaluation"),
    ("piflow inspect-policy --compare runs/gm runs/dx", "two students, one report"),
    closing="The report is policy.html in the output folder, with its numbers in policy.json.",
)


def inspect_policy(
    student: Annotated[
        str | None, typer.Argument(metavar="STUDENT", help="A run, an adapter's folder or file, or a Hub id.", show_default=False)
    ] = None,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="What to show, for text-to-image; may come again.", show_default=False)
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", metavar="A B", help="Two students over each other, in place of STUDENT.", rich_help_panel=LOOK, show_default=False),
    ] = None,
    at: Annotated[int, setting("--at", "Network evaluation to look at closely, from 1; default: the first.", LOOK, "STEP", 1)] = 1,
    slice: Annotated[
        str | None, setting("--slice", "Density and velocity at a position: column, row, channel (0).", LOOK, "X,Y[,AXIS]")
    ] = None,
    subfolder: Subfolder = None,
    teacher: Teacher = None,
    base: Base = None,
    vae: Annotated[
        str | None, setting("--vae", "What shows latents: a folder or Hub id; default: as trained.", MODEL, "PATH")
    ] = None,
    base_precision: BasePrecision = None,
    device: Device = "auto",
    prompts_from: Annotated[
        str | None, setting("--prompts", "A file of prompts, .jsonl with seed, width, height; or a Hub dataset.", SAMPLING, "SOURCE")
    ] = None,
    height: Annotated[int | None, setting("--height", "In pixels; default: 1024.", SAMPLING, "N", 1)] = None,
    width: Annotated[int | None, setting("--width", "In pixels; default: 1024.", SAMPLING, "N", 1)] = None,
    labels: Annotated[str | None, setting("--labels", "Classes, like 0-9 or 3,5; default: all, by seed.", SAMPLING, "RANGES")] = None,
    seeds: Annotated[
        str | None, setting("--seeds", "One picture per seed, and prompt; default: the first 16.", SAMPLING, "RANGES")
    ] = None,
    output: Annotated[
        Path | None, setting("--output", "Folder of the report; default: inspection/<name>.", OUTPUT, "DIR")
    ] = None,
    overwrite: Annotated[bool, switch("--overwrite", "Replace an earlier report in that folder.", OUTPUT)] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """See what a student's network decided, and how its policy holds against the teacher.

    Writes policy.html (one page, nothing fetched), policy.json and the pictures.
    """
    students, prompts = _students(student, prompts, compare)
    place = None if slice is None else parse_slice(slice)
    shots = {
        "labels": None if labels is None else parse_ranges(labels, "--labels"),
        "seeds": None if seeds is None else parse_ranges(seeds, "--seeds"),
    }
    console = Console(json=json, quiet=quiet)
    from piflow_cli.inspection.inspect import InspectRequest
    from piflow_cli.inspection.inspect import inspect_policy as inspect

    request = InspectRequest(
        students=students,
        prompts=tuple(prompts),
        prompts_from=prompts_from,
        height=height,
        width=width,
        at=at,
        place=place,
        teacher=teacher,
        base=base,
        subfolder=subfolder,
        vae=vae,
        base_precision=base_precision,
        output=_folder(students, subfolder) if output is None else output,
        overwrite=overwrite,
        device=device,
        **shots,
    )
    result = inspect(request, console)
    rows = result["verdict"]
    console.result(result, format_table(rows, list(rows[0])))
    console.say(f"report in {result['files'][0]}")


def parse_slice(text: str) -> Place:
    """`X,Y` or `X,Y,AXIS`, whole numbers from 0: column, row and channel of the state."""
    if re.fullmatch(r"\d{1,9}(,\d{1,9}){1,2}", text) is None:
        raise UsageError(f"--slice {text}: not a column and a row, or those and a channel, from 0", "write it like --slice 3,4 or --slice 3,4,0")
    from piflow_cli.inspection.slices import Place

    return Place(*map(int, text.split(",")))


def _students(student: str | None, prompts: list[str] | None, compare: tuple[str, str] | None) -> tuple[tuple[str, ...], list[str]]:
    """Whom to look at, and the prompts: with --compare the first argument is a prompt too."""
    prompts = [] if prompts is None else prompts
    if compare is None:
        if student is None:
            raise UsageError("no student given", "type piflow inspect-policy FOLDER, or --compare A B")
        return (student,), prompts
    if student is not None and " " not in student.strip():
        raise UsageError(f"{student} is given, and --compare too, which names both students", f"type --compare {compare[0]} {compare[1]} alone")
    return compare, prompts if student is None else [student, *prompts]


def _folder(students: tuple[str, ...], subfolder: str | None) -> Path:
    """inspection/digits for the student in runs/digits, inspection/a-b for two."""
    return Path("inspection") / "-".join(student_name(student, subfolder) for student in students)
