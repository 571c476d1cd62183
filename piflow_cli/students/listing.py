"""Students and runs below a folder, one row each, from their records and headers alone: no torch, and no tensor."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import PiflowError
from ..system.folders import bytes_below
from ..wording import Bytes
from .run_settings import read_yaml_record
from .run_status import status_of
from .runs import RunFolder
from .stated import stated_facts

STUDENT, BROKEN = "student", "broken"
# Of folders in folders; what lies deeper is somebody's archive.
DEEPEST = 4
WEIGHTS = "*.safetensors"
# All shards of a student state the same.
_LATER_SHARD = re.compile(r".*-(?!0*1-of)[0-9]+-of-[0-9]+\.safetensors")
_PIPELINE = "model_index.json"


@dataclass(frozen=True)
class ListedStudent:
    """A run, or a student outside of one.

    ``state``: of a run as `piflow status` has it, or ``student``; ``why``: what is broken, and nothing else. What is
    not known is None. ``iterations``: those that are asked for, of a run. ``bytes``: all of its files.
    """

    path: Path
    state: str
    why: str | None
    teacher: str | None
    policy: str | None
    components: int | None
    nfe: int | None
    iteration: int | None
    iterations: int | None
    bytes: Bytes


def students_below(folder: Path) -> list[ListedStudent]:
    """The runs and students in ``folder``, and in folders below it, sorted by path; broken ones are among them.

    Nothing but records and headers is read. Exports as pipelines, and links to folders, are passed over.
    """
    return sorted(_found(folder, 0), key=lambda row: row.path)


def _found(folder: Path, depth: int) -> Iterator[ListedStudent]:
    # Unlike pathlib's, these tests take a folder that may not be looked into, as a disk's lost+found.
    if os.path.isfile(RunFolder(folder).settings):
        yield _run(folder)
        return
    if os.path.isfile(folder / _PIPELINE):
        return
    yield from _students_in(folder)
    if depth == DEEPEST:
        return
    try:
        inside = [item.path for item in os.scandir(folder) if item.is_dir(follow_symlinks=False)]
    except OSError:
        # What may not be looked into has nothing to show.
        return
    for path in inside:
        if not os.path.basename(path).startswith("."):
            yield from _found(Path(path), depth + 1)


def _run(path: Path) -> ListedStudent:
    """The row of a run; what its student states goes before what it was started with."""
    run, why = RunFolder(path), None
    told: Mapping[str, Any] = {}
    try:
        told = _started_with(run) | _adapter_facts(run)
        found = status_of(path, whole=False)
        why = found.why
    except PiflowError as error:
        return _row(path, BROKEN, error.message, told)
    except OSError as error:
        return _row(path, BROKEN, f"{error.strerror}: {error.filename}", told)
    return _row(path, found.state, why, {**told, "iteration": found.iteration, "iterations": found.iterations})


def _started_with(run: RunFolder) -> dict[str, Any]:
    record = read_yaml_record(run.settings)
    if not isinstance(record, dict):
        return {}
    policy = record.get("policy")
    section = policy if isinstance(policy, dict) else {}
    told = {"teacher": record.get("name"), "policy": section.get("kind")}
    return {**told, "components": section.get("components"), "nfe": section.get("nfe")}


def _adapter_facts(run: RunFolder) -> dict[str, Any]:
    found = sorted(run.adapter.glob(WEIGHTS)) if run.adapter.is_dir() else []
    return dict(stated_facts(found[0])) if found else {}


def _students_in(folder: Path) -> Iterator[ListedStudent]:
    """A row for each file of a student in ``folder``; one alone with its config goes by the folder."""
    rows, files = [], 0
    for weights in sorted(folder.glob(WEIGHTS)):
        if weights.name.startswith(".") or _LATER_SHARD.fullmatch(weights.name) or not os.path.isfile(weights):
            continue
        files += 1
        try:
            facts = stated_facts(weights)
        except PiflowError as error:
            rows.append(_row(weights, BROKEN, error.message, {}))
            continue
        except OSError as error:
            rows.append(_row(weights, BROKEN, f"{error.strerror}: {weights}", {}))
            continue
        if facts:
            rows.append(
                _row(weights, STUDENT, None, {**facts, "iteration": facts.get("iterations"), "iterations": None})
            )
    if len(rows) == files == 1 and os.path.isfile(folder / "config.json"):
        (only,) = rows
        rows = [replace(only, path=folder, bytes=Bytes(bytes_below(folder)))]
    yield from rows


def _row(path: Path, state: str, why: str | None, told: Mapping[str, Any]) -> ListedStudent:
    return ListedStudent(
        path,
        state,
        why,
        teacher=_text(told.get("teacher")),
        policy=_text(told.get("policy")),
        components=_whole(told.get("components")),
        nfe=_whole(told.get("nfe")),
        iteration=_whole(told.get("iteration")),
        iterations=_whole(told.get("iterations")),
        bytes=Bytes(bytes_below(path)),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    """A whole number, from a record or from a text of one."""
    try:
        return None if value is None or isinstance(value, bool) else int(str(value))
    except ValueError:
        return None
