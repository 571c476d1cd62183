"""A run that begins with the weights of another (`--fork`): its student and average, a fresh optimiser, iteration 0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import UsageError
from ..students.run_checkpoints import TENSORS_NAME, checkpoints, newest_whole, no_checkpoint
from ..students.runs import SETTINGS_NAME, RunFolder
from ..weights.stored import read_safetensors
from .checkpoints import TrainingState, part_of, put_weights

if TYPE_CHECKING:
    from ..console import Console

SHOWN = 4  # differences of shapes that are told one by one


def source_of(run: RunFolder, fork: Path | None, resume: bool, console: Console) -> Path | None:
    """The checkpoint whose weights ``run`` begins with: that of ``fork``, or of the run that it was forked from before.

    None where it begins with none, or has checkpoints of its own already. Warns of those that are newer and damaged.
    Raises UsageError where ``fork`` is no run with a whole checkpoint, or not the one that ``run`` was forked from.
    """
    before = run.forked_from() if resume else None
    if fork is None:
        fork = before
    elif resume and run.settings.is_file() and fork.resolve() != before:
        raise UsageError(
            f"{run.path} is a run that did not begin with the weights of {fork}",
            "go on with it without --fork, name another folder with --output DIR, or start over with --no-resume",
        )
    if fork is None or (resume and checkpoints(run.checkpoints)):
        return None
    if fork.resolve() == run.path.resolve():
        raise UsageError(
            f"{fork} is the folder of this run itself", "name another folder for the new one: --output DIR"
        )
    found, damaged = newest_whole(RunFolder(fork).checkpoints)
    if found is None:
        raise no_checkpoint(fork, damaged)
    for one in damaged:
        console.warn(f"{one.message}; {found} is taken")
    return found


def begin_with(state: TrainingState, source: Path) -> None:
    """Put the student and the average of the checkpoint ``source`` into ``state``, and nothing else of it.

    The average stays until the first step, which begins it anew as in any run.

    Raises UsageError, with the first differences, where its tensors have other names or shapes.
    """
    _, tensors = read_safetensors(source / TENSORS_NAME)
    networks = {"student.": state.student, "average.": state.average}
    found = {prefix: part_of(tensors, prefix) for prefix in networks}
    changed = differences(found["student."], state.student.state_dict())
    if changed:
        run = source.parent.parent
        more = f", and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise UsageError(
            f"{source} is of another student: {', '.join(changed[:SHOWN])}{more}",
            "keep policy, base and adapters as they were there: piflow distill --teacher"
            f" {quote(str(run / SETTINGS_NAME))} --fork {quote(str(run))} --output DIR",
        )
    for prefix, network in networks.items():
        put_weights(network, found[prefix])


def differences(there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> list[str]:
    """Tensors of two students that have other shapes, or that only one of them has."""
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (there, here)]
    return [
        f"{name} {_shape(shapes[0].get(name))} there and {_shape(shapes[1].get(name))} here"
        for name in sorted(shapes[0].keys() | shapes[1].keys())
        if shapes[0].get(name) != shapes[1].get(name)
    ]


def _shape(shape: tuple[int, ...] | None) -> str:
    return "is missing" if shape is None else f"is {'x'.join(map(str, shape)) or 'a number'}"
