"""A run that begins with the weights of another (`--fork`): its student and average, a fresh optimiser, iteration 0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import UsageError
from ..presets.places import with_full_paths
from ..presets.resolve import flat, to_dict
from ..students.run_checkpoints import TENSORS_NAME, checkpoints, newest_whole, no_checkpoint
from ..students.run_settings import recorded_settings, said_change
from ..students.runs import SETTINGS_NAME, RunFolder
from ..weights.stored import read_safetensors
from .checkpoints import TrainingState, part_of, put_weights

if TYPE_CHECKING:
    from ..console import Console
    from ..presets.schema import Preset

SHOWN = 4  # differences of shapes that are told one by one
# Weights of equal names and shapes mean something else under another of these.
MEANING = ("policy.kind", "teacher.family")
# A fine-tuned or moved base may begin with them.
BASE = ("teacher.base", "teacher.revision")


def source_of(run: RunFolder, preset: Preset, fork: Path | None, resume: bool, console: Console) -> Path | None:
    """The checkpoint whose weights ``run`` begins with: that of ``fork``, or of the run that it was forked from before.

    None where it begins with none, or has checkpoints of its own already. Warns of those that are newer and damaged,
    and of another base than that of ``preset``. Raises UsageError where ``fork`` is no run with a whole checkpoint,
    not the one that ``run`` was forked from, or of another policy or family.
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
    _check_settings(found, preset, console)
    return found


def _check_settings(source: Path, preset: Preset, console: Console) -> None:
    settings = source.parent.parent / SETTINGS_NAME
    if not settings.is_file():
        return
    before, now = recorded_settings(settings), flat(to_dict(with_full_paths(preset)))
    changed = {key: said_change(key, before[key], now[key]) for key in MEANING + BASE if key in before}
    changed = {key: line for key, line in changed.items() if before[key] != now[key]}
    if wrong := [line for key, line in changed.items() if key in MEANING]:
        raise _another_student(source, ", ".join(wrong))
    if changed:
        console.warn(f"the weights of {source} were trained on another base: {', '.join(changed.values())}")


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
        more = f", and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise _another_student(source, ", ".join(changed[:SHOWN]) + more)
    for prefix, network in networks.items():
        put_weights(network, found[prefix])


def _another_student(source: Path, said: str) -> UsageError:
    run = source.parent.parent
    return UsageError(
        f"{source} is of another student: {said}",
        "keep policy, base and adapters as they were there: piflow distill --teacher"
        f" {quote(str(run / SETTINGS_NAME))} --fork {quote(str(run))} --output DIR",
    )


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
