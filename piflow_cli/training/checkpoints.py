"""Checkpoints: everything that a run needs to go on as if it had never stopped, without pickles."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import RunError
from ..files import replacing_folder
from ..student import Model
from ..weights import read_safetensors

STATE_NAME = "state.json"
TENSORS_NAME = "training.safetensors"


@dataclass
class TrainingState:
    """What training changes: the student, its average, the optimiser, and the number of finished iterations.

    Of a student with adapters that is what it adds to its base, which stays where it is.

    Random numbers are no part of it: they are drawn from the seed and the iteration.
    """

    student: Model
    average: Model
    optimizer: torch.optim.Optimizer
    iteration: int = 0


def save_checkpoint(folder: Path, state: TrainingState, keep: int) -> Path:
    """Write ``folder``/<iteration>, aside first, then drop all but the newest ``keep``; returns its path."""
    path = folder / f"{state.iteration:07d}"
    with replacing_folder(path) as aside:
        tensors = {f"student.{name}": value for name, value in state.student.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in state.average.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in _flatten(state.optimizer).items()}
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, aside / TENSORS_NAME)
        record = {"iteration": state.iteration, "crc32": _checksum(aside / TENSORS_NAME)}
        (aside / STATE_NAME).write_text(json.dumps(record) + "\n")
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir()) if folder.is_dir() else []


def load_checkpoint(path: Path, state: TrainingState) -> None:
    """Put a checkpoint into ``state``; raises RunError naming the file and what to remove where it is damaged."""
    try:
        record = json.loads((path / STATE_NAME).read_text())
        if _checksum(path / TENSORS_NAME) != record["crc32"]:
            raise ValueError("its checksum does not match")
        _, tensors = read_safetensors(path / TENSORS_NAME)
        state.student.load_state_dict(_part(tensors, "student."))
        state.average.load_state_dict(_part(tensors, "average."))
        _unflatten(state.optimizer, _part(tensors, "optimizer."))
        state.iteration = int(record["iteration"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RunError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"the checkpoint {path} is damaged: {reason}",
            f"remove it to go on from the one before: rm -r {path}",
        ) from error


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as ``<parameter>.<entry>`` tensors; its settings come from the configuration."""
    tensors = {}
    for index, entries in optimizer.state_dict()["state"].items():
        # bitsandbytes gives its 8-bit moments in a mapping of their own, and takes them back without it.
        inner = {name: value for entry in entries.values() if isinstance(entry, Mapping) for name, value in entry.items()}
        for name, value in {**entries, **inner}.items():
            if not isinstance(value, Mapping):
                # A copy, since parameters share the table of 8-bit values, and safetensors refuses tensors that do.
                tensors[f"{index}.{name}"] = torch.as_tensor(value).to("cpu", copy=True)
    return tensors


def _unflatten(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    entries: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, entry = name.partition(".")
        # A whole number was one of Python's: bitsandbytes counts its steps so.
        whole = value.ndim == 0 and not value.is_floating_point()
        entries.setdefault(int(index), {})[entry] = value.item() if whole else value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
