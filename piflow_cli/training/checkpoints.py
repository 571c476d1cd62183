"""Checkpoints: everything that a run needs to go on as if it had never stopped, without pickles."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..core.tensors import all_finite, like_shared, whole
from ..errors import RunError, is_of_the_system
from ..system.files import files_digest, remove_folder, replacing_folder
from ..teachers.base import Network
from ..weights.stored import read_safetensors

STATE_NAME = "state.json"
TENSORS_NAME = "training.safetensors"
GENTLER = "train more gently in another folder: --output DIR with a lower --learning-rate RATE"
_NAME = re.compile("[0-9]{7,}")

logger = logging.getLogger("piflow.training")


@dataclass
class TrainingState:
    """The state of training: the student, its average, the optimiser, and the number of finished iterations.

    A student with adapters keeps there what it adds to its base. Random numbers are no part of the state: they are
    drawn from the seed and the iteration.
    """

    student: Network
    average: Network
    optimizer: torch.optim.Optimizer
    iteration: int = 0


def training_tensors(state: TrainingState) -> dict[str, Tensor]:
    """Everything of ``state`` but the iteration, whole and on the CPU.

    So a checkpoint does not depend on how many processes wrote it, or on how they shared the weights. Where they share
    them out, every process must ask.
    """
    parts = {"student": state.student.state_dict(), "average": state.average.state_dict()}
    parts["optimizer"] = _flatten(state.optimizer)
    named = {f"{part}.{name}": value for part, found in parts.items() for name, value in found.items()}
    return {name: whole(value.detach()).cpu().contiguous() for name, value in named.items()}


def save_checkpoint(
    folder: Path,
    state: TrainingState,
    keep: int,
    metrics: str | None = None,
    tensors: dict[str, Tensor] | None = None,
) -> Path:
    """Write ``folder``/<iteration>, aside first, then drop all but the newest ``keep``; returns its path.

    ``metrics``: digest of the rows of metrics.jsonl so far. ``tensors``: the :func:`training_tensors` of ``state``,
    where they are known. Raises RunError, and writes nothing, where a value is not finite.
    """
    path = folder / name_of(state.iteration)
    tensors = training_tensors(state) if tensors is None else tensors
    for name, value in tensors.items():
        if not all_finite(value):
            raise RunError(f"{name} of iteration {state.iteration} is not finite, and is not saved", GENTLER)
    with replacing_folder(path) as aside:
        save_file(tensors, aside / TENSORS_NAME)
        record = {
            "iteration": state.iteration,
            "files": {TENSORS_NAME: files_digest([aside / TENSORS_NAME])},
            "metrics": metrics,
        }
        (aside / STATE_NAME).write_text(_with_digest(record))
    for old in checkpoints(folder)[:-keep]:
        try:
            remove_folder(old)
        except OSError as error:
            logger.warning(f"the old checkpoint {old} cannot be removed: {error.strerror}")
    return path


def name_of(iteration: int) -> str:
    """The name of a checkpoint; folders of other names belong to somebody else."""
    return f"{iteration:07d}"


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    found = (
        [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()] if folder.is_dir() else []
    )
    return sorted((path for path in found if path.name == name_of(int(path.name))), key=lambda path: int(path.name))


def load_checkpoint(path: Path, state: TrainingState) -> str | None:
    """Put a checkpoint into ``state``; returns the digest of metrics.jsonl at that time, None where it has none.

    Raises RunError naming the file and what to remove where it is damaged.
    """
    try:
        record = _read_state(path / STATE_NAME)
        if name_of(record["iteration"]) != path.name:
            raise ValueError(f"{STATE_NAME} is of iteration {record['iteration']}")
        # piflow 0.1 wrote a CRC-32 of the tensors alone.
        intact = (
            record["files"] == {TENSORS_NAME: files_digest([path / TENSORS_NAME])}
            if "files" in record
            else (record["crc32"] == _checksum(path / TENSORS_NAME))
        )
        if not intact:
            raise ValueError(f"the checksum of {TENSORS_NAME} does not match")
        _, tensors = read_safetensors(path / TENSORS_NAME)
        _put(state.student, _part(tensors, "student."))
        _put(state.average, _part(tensors, "average."))
        _unflatten(state.optimizer, _part(tensors, "optimizer."))
        state.iteration = record["iteration"]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RunError) as error:
        if is_of_the_system(error) and not isinstance(error, FileNotFoundError):
            # A file that cannot be read today may be whole.
            raise
        reason = str(error).splitlines()[0]
        raise RunError(
            f"the checkpoint {path} is damaged: {reason}",
            f"remove it to go on from the one before: rm -r {shlex.quote(str(path))}",
        ) from error
    return record.get("metrics")


def _with_digest(record: Mapping[str, Any]) -> str:
    text = json.dumps(record)
    return json.dumps({**record, "sha256": hashlib.sha256(text.encode()).hexdigest()}) + "\n"


def _read_state(path: Path) -> dict[str, Any]:
    """The record of a checkpoint; raises ValueError where a byte of it is not as it was written."""
    text = path.read_bytes().decode()
    record = json.loads(text)
    if record.keys() == {"iteration", "crc32"}:
        return record
    rest = {key: value for key, value in record.items() if key != "sha256"}
    if text != _with_digest(rest):
        raise ValueError(f"the checksum of {path.name} does not match")
    return rest


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _put(model: Network, state: Mapping[str, Tensor]) -> None:
    """Load ``state``, whole tensors, into a model whose own may be shared out."""
    own = model.state_dict()
    model.load_state_dict(
        {name: like_shared(value, own[name]) if name in own else value for name, value in state.items()}
    )


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as ``<parameter>.<entry>`` tensors; its settings come from the configuration."""
    tensors = {}
    for index, entries in optimizer.state_dict()["state"].items():
        # bitsandbytes gives its 8-bit moments in a mapping of their own, and takes them back without it.
        inner = {
            name: value for entry in entries.values() if isinstance(entry, Mapping) for name, value in entry.items()
        }
        for name, value in {**entries, **inner}.items():
            if not isinstance(value, Mapping):
                # A copy, since parameters share the table of 8-bit values, and safetensors refuses tensors that do.
                tensors[f"{index}.{name}"] = whole(torch.as_tensor(value)).to("cpu", copy=True)
    return tensors


def _unflatten(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    entries: dict[int, dict[str, Any]] = {}
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    for name, value in tensors.items():
        index, _, entry = name.partition(".")
        own = parameters[int(index)]
        value = like_shared(value, own) if value.shape == own.shape else value
        # A whole number was one of Python's: bitsandbytes counts its steps so.
        counted = value.ndim == 0 and not value.is_floating_point()
        entries.setdefault(int(index), {})[entry] = value.item() if counted else value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
