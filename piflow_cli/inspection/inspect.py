"""From students on disk to a report: what `piflow inspect-policy` does."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.validation import PolicyError
from ..data.prompts import read_prompts
from ..errors import RunError, UsageError
from ..sampling.opened import OpenedModel, open_model
from ..sampling.request import BasePrecision
from ..sampling.teacher import OwnTeacher, own_teacher, preset_of
from ..students.adapters import read_facts
from ..students.locate import locate_student
from ..students.naming import student_names
from ..system.devices import choose_device
from ..system.files import check_writable, replacing_folder
from .advice import advice
from .analysis import examine
from .report import JSON_NAME, Inspected, as_json, is_of_report, write_report
from .slices import Place
from .summary import summarise
from .verdict import verdict_rows

if TYPE_CHECKING:
    import torch

    from ..console import Console
    from ..presets.schema import Preset

MOST_SHOTS = 16
# The pictures of a report have a row for each: more make files that few viewers open.
MOST_SEEDS = 128


@dataclass(frozen=True)
class InspectRequest:
    """The command's options; None stands for "as the student was trained".

    ``students``: one, or two that are laid over each other. ``at``: the evaluation that is looked at closely, from 1.
    ``place``: where to cut a slice.
    """

    students: tuple[str, ...]
    labels: tuple[int, ...] | None
    prompts: tuple[str, ...]
    prompts_from: str | None
    text_column: str | None
    seeds: tuple[int, ...] | None
    height: int | None
    width: int | None
    at: int
    place: Place | None
    teacher: str | None
    base: str | None
    subfolder: str | None
    vae: str | None
    base_precision: BasePrecision | None
    output: Path
    overwrite: bool
    device: str


def inspect_policy(request: InspectRequest, console: Console) -> dict:
    """Write the report to ``request.output``; returns the numbers, a table of verdicts, and the files."""
    _check_output(request.output, request.overwrite)
    _check_count(request)
    device = choose_device(request.device)
    names = student_names(request.students, request.subfolder)
    for path in request.students:
        _check_step(path, request)
    students = [_inspected(path, name, request, device, console) for path, name in zip(request.students, names)]
    with replacing_folder(request.output) as aside:
        written = write_report(students, aside)
        files = [request.output / path.name for path in written]
    rows = verdict_rows([student.summary for student in students], names, [student.warned for student in students])
    return {**as_json(students), "verdict": rows, "files": files}


def _check_count(request: InspectRequest) -> None:
    """Refuse more pictures than a report can show, before any is made."""
    if request.seeds is None:
        return
    prompts = len(request.prompts) if request.prompts_from is None else len(read_prompts(request.prompts_from))
    if (total := len(request.seeds) * max(1, prompts)) > MOST_SEEDS:
        raise UsageError(
            f"--seeds: that makes {total:,} pictures, and a report has room for {MOST_SEEDS}",
            "name fewer: --seeds 0-15"
            if prompts <= 1
            else "name fewer: --seeds 0"
            if prompts <= MOST_SEEDS
            else "name a file of fewer prompts: --prompts FILE",
        )


def _inspected(path: str, name: str, request: InspectRequest, device: torch.device, console: Console) -> Inspected:
    opened = _scene(path, request, device, console)
    if request.place is not None:
        request.place.check(opened.shape_of(opened.specs[0]))
    teacher, missing = _teacher(opened, request, console)
    try:
        with console.progress(len(opened.specs), description=f"inspecting {name}") as bar:
            found = examine(opened, teacher, request.at, request.place, bar)
    except PolicyError as error:
        raise RunError(
            f"{path} emits what is no policy: {error}",
            "try --base-precision fp32; else distil again with half of optimisation.learning_rate",
        ) from error
    summary = summarise(found)
    warned = advice(summary, _preset(opened, request))
    for item in warned:
        console.warn(f"{name}: {item.text}\n  → {item.remedy}")
    return Inspected(name, found, summary, warned, missing)


def _scene(path: str, request: InspectRequest, device: torch.device, console: Console) -> OpenedModel:
    opened = open_model(
        path,
        device=device,
        console=console,
        labels=request.labels,
        prompts=request.prompts,
        prompts_from=request.prompts_from,
        text_column=request.text_column,
        seeds=request.seeds,
        height=request.height,
        width=request.width,
        base=request.base,
        teacher=request.teacher,
        vae=request.vae,
        subfolder=request.subfolder,
        base_precision=request.base_precision,
    )
    if request.seeds is None and len(opened.specs) > MOST_SHOTS:
        console.say(f"the first {MOST_SHOTS} of {len(opened.specs)} pictures; --seeds says which")
        opened = replace(opened, specs=opened.specs[:MOST_SHOTS])
    return opened


def _teacher(opened: OpenedModel, request: InspectRequest, console: Console) -> tuple[OwnTeacher | None, str | None]:
    """The teacher, or why there is none."""
    try:
        return own_teacher(opened.student, opened.path, request.teacher), None
    except (UsageError, RunError) as error:
        console.warn(f"{opened.path}: what needs the teacher is left out, because {error.message}\n  → {error.hint}")
        return None, error.message


def _preset(opened: OpenedModel, request: InspectRequest) -> Preset | None:
    """What the student was distilled with, if it can be found out."""
    try:
        return preset_of(opened.student.facts, opened.path, request.teacher)
    except UsageError:
        return None


def _check_step(path: str, request: InspectRequest) -> None:
    nfe = read_facts(locate_student(path, request.subfolder), teacher=request.teacher, base=request.base).nfe
    if request.at > nfe:
        raise UsageError(
            f"--at {request.at}: {path} takes {nfe} network evaluation{'s' if nfe > 1 else ''}, counted from 1",
            f"type --at {nfe}, or leave it out for the first",
        )


def _check_output(folder: Path, overwrite: bool) -> None:
    """Raise UsageError unless the folder is new, empty, or holds an inspection that may go, and can be written to."""
    check_writable(folder)
    if not folder.exists() or not any(folder.iterdir()):
        return
    others = sorted(path.name for path in folder.iterdir() if not is_of_report(path.name) or path.is_dir())
    if not _is_report(folder / JSON_NAME) or others:
        more = f", {others[0]} for one," if others else ""
        raise UsageError(
            f"{folder} holds something else than an inspection{more} which --overwrite would remove",
            "name another folder: --output DIR",
        )
    if not overwrite:
        raise UsageError(
            f"{folder} is not empty", "name another folder with --output DIR, or replace it with --overwrite"
        )


def _is_report(path: Path) -> bool:
    try:
        return "students" in json.loads(path.read_text())
    except (OSError, ValueError, TypeError):
        return False
