"""Checkpoints of a run as files: their names, their checksums, and what is done with a damaged one. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RunError, UsageError
from ..system.files import files_digest
from ..system.folders import sync_folder

STATE_NAME = "state.json"
TENSORS_NAME = "training.safetensors"
_NAME = re.compile("[0-9]{7,}")
_DAMAGED = re.compile(r"[0-9]{7,}\.damaged(\.[0-9]+)?")


class DamagedCheckpoint(RunError):
    """A checkpoint that is not as it was written; ``reason`` says what is wrong with it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"the checkpoint {path} is damaged: {reason}")
        self.path = path
        self.reason = reason


def name_of(iteration: int) -> str:
    """The name of a checkpoint; folders of other names belong to somebody else."""
    return f"{iteration:07d}"


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    found = (
        [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()] if folder.is_dir() else []
    )
    return sorted((path for path in found if path.name == name_of(int(path.name))), key=lambda path: int(path.name))


def write_record(path: Path, iteration: int, metrics: str | None) -> None:
    """Write the record of the checkpoint in the folder ``path``, whose tensors are there already.

    ``metrics``: digest of the rows of metrics.jsonl so far.
    """
    record = {
        "iteration": iteration,
        "files": {TENSORS_NAME: files_digest([path / TENSORS_NAME])},
        "metrics": metrics,
    }
    (path / STATE_NAME).write_text(_with_digest(record))


def read_record(path: Path) -> dict[str, Any]:
    """The record of a checkpoint; raises ValueError or KeyError where a byte of it is not as it was written."""
    text = (path / STATE_NAME).read_bytes().decode()
    record = json.loads(text)
    # piflow 0.1 wrote a CRC-32 of the tensors alone.
    if record.keys() != {"iteration", "crc32"}:
        rest = {key: value for key, value in record.items() if key != "sha256"}
        if text != _with_digest(rest):
            raise ValueError(f"the checksum of {STATE_NAME} does not match")
        record = rest
    if name_of(record["iteration"]) != path.name:
        raise ValueError(f"{STATE_NAME} is of iteration {record['iteration']}")
    return record


def check_checkpoint(path: Path, whole: bool = True) -> None:
    """Raise DamagedCheckpoint unless every byte of a checkpoint is as it was written.

    ``whole``: its tensors are read too; otherwise they have to be there, and its record to be sound.

    Raises OSError where the system cannot read it: what cannot be read today may be whole.
    """
    try:
        record = read_record(path)
        if not whole:
            intact = (path / TENSORS_NAME).stat().st_size > 0
        elif "files" in record:
            intact = record["files"] == {TENSORS_NAME: files_digest([path / TENSORS_NAME])}
        else:
            intact = record["crc32"] == _checksum(path / TENSORS_NAME)
    except FileNotFoundError as error:
        raise DamagedCheckpoint(path, f"{Path(error.filename).name} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(path, str(error).splitlines()[0]) from error
    if not intact:
        raise DamagedCheckpoint(path, f"the checksum of {TENSORS_NAME} does not match")


def newest_whole(folder: Path, whole: bool = True) -> tuple[Path | None, list[DamagedCheckpoint]]:
    """The newest checkpoint that is whole, None where there is none; and what is wrong with those after it.

    ``whole``: as :func:`check_checkpoint` has it.
    """
    damaged = []
    for path in reversed(checkpoints(folder)):
        try:
            check_checkpoint(path, whole)
        except DamagedCheckpoint as error:
            damaged.append(error)
        else:
            return path, damaged
    return None, damaged


def require_checkpoint(run: Path, folder: Path) -> None:
    """Raise UsageError where ``folder``, of the checkpoints of ``run``, has none; whether one is whole is not asked."""
    if not checkpoints(folder):
        raise no_checkpoint(run)


def no_checkpoint(run: Path, damaged: Sequence[DamagedCheckpoint] = ()) -> UsageError:
    """The error for a run that is to lend its weights, and has no whole checkpoint."""
    reasons = ": " + ", ".join(f"{one.path.name} ({one.reason})" for one in damaged) if damaged else ""
    return UsageError(f"{run} is no run with a whole checkpoint{reasons}", "name the folder of a run: --fork RUN")


def set_aside_damaged(folder: Path) -> Iterator[str]:
    """Rename the damaged checkpoints that are newer than the newest whole one; gives a line about each.

    Raises RunError, and renames nothing, where none is whole: the run would start over without a word.
    """
    whole, damaged = newest_whole(folder)
    if whole is None and damaged:
        raise RunError(
            f"no checkpoint in {folder} is whole: " + ", ".join(f"{one.path.name} ({one.reason})" for one in damaged),
            "copy one of them there again, or start over with --no-resume",
        )
    for one in damaged:
        aside = _free_name(one.path)
        one.path.rename(aside)
        sync_folder(folder)
        yield f"{one.message}; it is now {aside}, and the run goes on from {whole}"


def those_set_aside(folder: Path) -> list[Path]:
    """Damaged checkpoints that lie beside the others under another name."""
    return sorted(path for path in folder.iterdir() if _DAMAGED.fullmatch(path.name)) if folder.is_dir() else []


def _free_name(path: Path) -> Path:
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged.{number}")
    return aside


def _with_digest(record: Mapping[str, Any]) -> str:
    text = json.dumps(record)
    return json.dumps({**record, "sha256": hashlib.sha256(text.encode()).hexdigest()}) + "\n"


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
