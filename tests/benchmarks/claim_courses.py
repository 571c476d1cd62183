"""Looks at a student along its training, for claims about collapse: how far off, how large, and how much alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from piflow_cli.presets.resolve import load
from piflow_cli.students.adapter_fit import LORA_B
from piflow_cli.students.open import find_student
from piflow_cli.students.run_checkpoints import TENSORS_NAME, checkpoints
from piflow_cli.students.runs import RunFolder
from piflow_cli.students.student import Student
from piflow_cli.training.checkpoints import part_of

PARTS = 8  # of a training, after each of which the student is looked at
PAIR = 2  # samples that are told the same, beside each other
WORST = ("error", "norm_off", "sameness")


def look_settings(teacher: str, shorter: int | None) -> tuple[str, ...]:
    """What a run is told so that it keeps what is looked at; ``shorter``: iterations in place of the preset's."""
    iterations = load(teacher).optimisation.iterations if shorter is None else shorter
    return (f"output.checkpoint_every={max(1, iterations // PARTS)}", f"output.keep_checkpoints={2 * PARTS}")


def against_teacher(states: Tensor, fine: Tensor) -> dict[str, float]:
    """error, norm_off and sameness of samples (N, C, *S) against the teacher's ``fine`` ones, PAIR told the same."""

    def apart(of: Tensor) -> Tensor:
        pairs = of.unflatten(0, (-1, PAIR))
        return (pairs[:, 0] - pairs[:, 1]).square().mean().sqrt()

    size, own = fine.square().mean(), states.square().mean()
    return {
        "error": ((states - fine).square().mean() / size).item(),
        "norm": (own / size).sqrt().item(),
        "norm_off": (own / size).sqrt().log().abs().item(),
        "sameness": (1 - apart(states) / apart(fine)).item(),
    }


def course(
    student: Student, folder: Path, sample: Callable[[], Tensor], fine: Tensor
) -> tuple[list[dict[str, Any]], list[Tensor]]:
    """A look for each checkpoint of the run in ``folder``, and what ``sample`` drew; ``student`` ends as the last."""
    looks, drawn = [], []
    for iteration in weights_in_turn(student, folder):
        drawn.append(sample())
        looks.append({"iteration": iteration, **against_teacher(drawn[-1], fine)})
    return looks, drawn


def ends_of(looks: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the last look, those of the second half at their largest, and all looks."""
    later = looks[len(looks) // 2 :]
    worst = {f"worst_{name}": max(look[name] for look in later) for name in WORST}
    return {**looks[-1], **worst, "course": looks}


def weights_in_turn(student: Student, folder: Path) -> Iterator[int]:
    """Iterations of the run's checkpoints; each time ``student`` has become the average there."""
    adapter = find_student(folder).preset().adapter
    # Saved adapters hold the factor in the matrices, checkpoints do not.
    factor = 1.0 if adapter is None else adapter.alpha / adapter.rank
    for path in checkpoints(RunFolder(folder).checkpoints):
        average = part_of(load_file(path / TENSORS_NAME), "average.")
        scaled = {name: value * factor if name.endswith(LORA_B) else value for name, value in average.items()}
        student.model.load_state_dict(scaled)
        yield int(path.name)
