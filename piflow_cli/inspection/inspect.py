"""`piflow inspect-policy`, from students on disk to a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, TypedDict

from ..core.validation import PolicyError
from ..errors import RunError, UsageError
from ..sampling.opened import OpenedModel, open_model
from ..sampling.request import SampleRequest
from ..sampling.teacher import OwnTeacher, own_teacher
from ..students.naming import student_names, teacher_name
from ..students.open import FoundStudent, find_student
from ..students.runs import run_of
from ..system.devices import choose_device
from ..system.files import replacing_folder
from .advice import advice
from .analysis import examine
from .early import check
from .report import Inspected, as_json, write_report
from .request import InspectRequest
from .summary import summarise
from .verdict import verdict_rows

if TYPE_CHECKING:
    import torch

    from ..console import Console
    from ..presets.schema import Preset

MOST_PICTURES = 16


class Inspection(TypedDict):
    """The result of an inspection: numbers of each student as in policy.json, the verdict, and the files."""

    students: list[dict[str, Any]]
    verdict: list[dict[str, Any]]
    files: list[Path]


def inspect_policy(request: InspectRequest, console: Console) -> Inspection:
    """Inspect what ``request`` names, and write the report to its output if it has one."""
    check(request)
    device = choose_device(request.device)
    names = student_names(request.students, request.subfolder)
    founds = [
        find_student(path, request.teacher, request.base, subfolder=request.subfolder, say=console.say)
        for path in request.students
    ]
    for found in founds:
        found.refuse_beyond_pictures("piflow inspect-policy", videos=True)
        _check_step(found, request)
    students = [_inspected(found, name, request, device, console) for found, name in zip(founds, names)]
    files = [] if request.output is None else _written(students, request.output)
    rows = verdict_rows([student.summary for student in students], names, [student.warned for student in students])
    return Inspection(students=as_json(students)["students"], verdict=rows, files=files)


def _written(students: list[Inspected], folder: Path) -> list[Path]:
    with replacing_folder(folder) as aside:
        written = write_report(students, aside)
    return [folder / path.name for path in written]


def _inspected(
    found: FoundStudent, name: str, request: InspectRequest, device: torch.device, console: Console
) -> Inspected:
    opened = _opened(found, request, device, console)
    if request.position is not None:
        request.position.check(opened.shape_of(opened.specs[0]))
    teacher, missing = _teacher(opened, console)
    try:
        with console.progress(len(opened.specs), description=f"inspecting {name}") as bar:
            findings = examine(opened, teacher, request.at, request.position, bar)
    except PolicyError as error:
        raise RunError(
            f"{found.named} emits what is no policy: {error}",
            "try --base-precision fp32; else distil again with half the rate:"
            " piflow distill --teacher NAME --learning-rate RATE",
        ) from error
    summary = summarise(findings)
    warned = advice(summary, _preset(found), _distilling_again(found))
    for item in warned:
        console.warn(f"{name}: {item.text}\n  → {item.remedy}")
    return Inspected(name, findings, summary, warned, missing)


def _distilling_again(found: FoundStudent) -> str:
    """The command that distils a student again, in another folder than its own."""
    run = run_of(found.folder)
    if run is None:
        teacher = found.facts.teacher if found.teacher is None else found.teacher
        settings, output = teacher, f"runs/{teacher_name(teacher)}-again"
    else:
        settings, output = str(run.settings), f"{run.path}-again"
    return f"piflow distill --teacher {quote(settings)} --output {quote(output)}"


def _opened(found: FoundStudent, request: InspectRequest, device: torch.device, console: Console) -> OpenedModel:
    drawn = SampleRequest(
        labels=request.labels,
        prompts=request.prompts,
        prompts_from=request.prompts_from,
        text_column=request.text_column,
        seeds=request.seeds,
        height=request.height,
        width=request.width,
        frames=request.frames,
        vae=request.vae,
        base_precision=request.base_precision,
    )
    opened = open_model(found, drawn, device=device, console=console)
    if request.seeds is None and len(opened.specs) > MOST_PICTURES:
        console.say(f"the first {MOST_PICTURES} of {len(opened.specs)} pictures; --seeds says which")
        opened = replace(opened, specs=opened.specs[:MOST_PICTURES])
    return opened


def _teacher(opened: OpenedModel, console: Console) -> tuple[OwnTeacher | None, str | None]:
    """The teacher, or the reason why there is none."""
    try:
        return own_teacher(opened.student, opened.found.folder, opened.found.teacher), None
    except (UsageError, RunError) as error:
        console.warn(
            f"{opened.found.named}: what needs the teacher is left out, because {error.message}\n  → {error.hint}"
        )
        return None, error.message


def _preset(found: FoundStudent) -> Preset | None:
    """The preset that the student was distilled with, if it can be found."""
    try:
        return found.preset()
    except UsageError:
        return None


def _check_step(found: FoundStudent, request: InspectRequest) -> None:
    nfe = found.facts.nfe
    if request.at > nfe:
        raise UsageError(
            f"--at {request.at}: {found.named} takes {nfe} network evaluation{'s' if nfe > 1 else ''}, counted from 1",
            f"type --at {nfe}, or leave it out for the first",
        )
