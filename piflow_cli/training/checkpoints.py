"""Checkpoints: everything that a run needs to go on as if it had never stopped, without pickles."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..core.tensors import all_finite, like_shared, whole
from ..errors import RunError, is_of_the_system
from ..students.run_checkpoints import TENSORS_NAME, checkpoints, name_of, read_record, write_record
from ..system.files import remove_folder, replacing_folder
from ..teachers.base import Network
from ..weights.stored import read_safetensors
from .optimizer import FIRST_MOMENTS, first_moments

GENTLER = "train more gently in another folder: --output DIR with a lower --learning-rate RATE"

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
    keep_every: int = 0,
    metrics: str | None = None,
    tensors: dict[str, Tensor] | None = None,
) -> Path:
    """Write ``folder``/<iteration>, aside first, then drop all but the newest ``keep``; returns its path.

    Those whose iteration is a multiple of ``keep_every`` stay too, where that is not 0. ``metrics``: digest of the rows
    of metrics.jsonl so far. ``tensors``: the :func:`training_tensors` of ``state``, where they are known. Raises
    RunError, and writes nothing, where a value is not finite.
    """
    path = folder / name_of(state.iteration)
    tensors = training_tensors(state) if tensors is None else tensors
    for name, value in tensors.items():
        if not all_finite(value):
            raise RunError(f"{name} of iteration {state.iteration} is not finite, and is not saved", GENTLER)
    with replacing_folder(path) as aside:
        save_file(tensors, aside / TENSORS_NAME)
        write_record(aside, state.iteration, metrics)
    for old in checkpoints(folder)[:-keep]:
        if keep_every and int(old.name) % keep_every == 0:
            continue
        try:
            remove_folder(old)
        except OSError as error:
            logger.warning(f"the old checkpoint {old} cannot be removed: {error.strerror}")
    return path


def load_checkpoint(path: Path, state: TrainingState) -> str | None:
    """Put a checkpoint that is whole into ``state``; returns the digest of metrics.jsonl then, None where it has none.

    Moments that another optimiser wrote stay out, with a warning: those of ``state`` begin anew.

    Raises RunError where the checkpoint is of another student.
    """
    try:
        record = read_record(path)
        _, tensors = read_safetensors(path / TENSORS_NAME)
        put_weights(state.student, part_of(tensors, "student."))
        put_weights(state.average, part_of(tensors, "average."))
        _put_moments(state.optimizer, part_of(tensors, "optimizer."), path)
        state.iteration = record["iteration"]
    except (ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        if is_of_the_system(error):
            raise
        raise RunError(
            f"the checkpoint {path} is not of this student: {str(error).splitlines()[0]}",
            "start over with --no-resume, or name another folder with --output DIR",
        ) from error
    return record.get("metrics")


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of ``tensors`` whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def put_weights(model: Network, state: Mapping[str, Tensor]) -> None:
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


def _put_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], path: Path) -> None:
    own, written = first_moments(optimizer), {name.partition(".")[2] for name in tensors}
    other = next((entry for entry in FIRST_MOMENTS if entry in written and entry != own), None)
    if other is None:
        _unflatten(optimizer, tensors)
        return
    logger.warning(
        f"the moments in {path} are those of {FIRST_MOMENTS[other]}, and the run goes on with {FIRST_MOMENTS[own]}:"
        " they begin anew"
    )


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
