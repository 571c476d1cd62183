"""Ideas 7 and 8: another rate for the head, and the length of the average chosen after the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from piflow_cli.core.ema import update_average
from piflow_cli.core.guidance import Guidance
from piflow_cli.sampling.denoise import sample_student, sample_teacher, seeded_generators, seeded_noise
from piflow_cli.students.runs import RunFolder
from piflow_cli.training import loop, optimizer, run
from piflow_cli.training.loop import Session

from .pieces import wrap

HEAD = "proj_out_2"  # of DiT
SEEDS = range(10_000, 10_128)  # of pictures that no benchmark measures
FINE = 32  # steps of the teacher
OWN = 7.0  # ema_gamma of the preset
GAMMAS = (2.0, 4.0, OWN, 15.0)
# Of what is drawn to choose among them, which belongs to the cost of a training.
EVALUATIONS = len(SEEDS) * (FINE + len(GAMMAS))


def head_rate(share: float) -> None:
    """Train the head at so many times the rate of the rest."""

    def grouped(named: Iterable[tuple[str, nn.Parameter]], *slow: Any) -> list[dict]:
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, value in named:
            groups[HEAD in name.split(".")].append(value)
        return [{"params": groups[True], "share": share}, {"params": groups[False], "share": 1.0}]

    wrap(optimizer, "_groups", lambda _: grouped)


def chosen_average(gammas: Sequence[float] = GAMMAS) -> None:
    """Keep an average for each of ``gammas``, and save the one whose pictures come nearest to the teacher's.

    Students have one evaluation.
    """
    kept: dict[float, list[Tensor]] = {}

    def keeping(update: Callable[..., None]) -> Callable[..., None]:
        def updated(average: Iterable[Tensor], current: Iterable[Tensor], decay: float) -> None:
            mean, values = list(average), list(current)
            update(mean, values, decay)
            if not kept:
                assert decay == 0, "a run that was stopped has them in its folder"
                kept.update({gamma: [value.clone() for value in mean] for gamma in gammas})
            for gamma, own in kept.items():
                update_average(own, values, decay ** ((gamma + 1) / (OWN + 1)))

        return updated

    def going_on(begin: Callable[..., Any]) -> Callable[..., Any]:
        def begun(session: Session, folder: RunFolder, *others: Any) -> Any:
            metrics = begin(session, folder, *others)
            if session.iteration > 0:
                kept.update(torch.load(folder.path / f"averages-{session.iteration}.pt"))
            return metrics

        return begun

    def choosing(save: Callable[..., None]) -> Callable[..., None]:
        def saved(session: Session, folder: RunFolder, *others: Any) -> None:
            torch.save(kept, folder.path / f"averages-{session.iteration}.pt")
            if session.iteration == session.preset.optimisation.iterations:
                errors = distances(session, kept)
                put(session, kept[min(errors, key=lambda gamma: errors[gamma])])
            save(session, folder, *others)

        return saved

    wrap(loop, "update_average", keeping)
    wrap(run, "begin", going_on)
    wrap(run, "save", choosing)


@torch.no_grad()
def distances(session: Session, kept: dict[float, list[Tensor]]) -> dict[float, float]:
    """Mean squares between the pictures of each average and those of the teacher, from the same noise."""
    student = session.average
    noise = seeded_noise(seeded_generators(SEEDS), student.family.sample_shape(session.teacher))
    device = next(student.model.parameters()).device
    noise, told = noise.to(device), {"class_labels": torch.arange(len(noise), device=device) % 10}
    fine = sample_teacher(student.family, session.teacher, noise, told, FINE, student.facts.shift, Guidance())
    found = {}
    for gamma, weights in kept.items():
        put(session, weights)
        found[gamma] = (sample_student(student, noise, told) - fine).square().mean().item()
    return found


@torch.no_grad()
def put(session: Session, weights: Sequence[Tensor]) -> None:
    """Make ``weights`` the average of the session."""
    for own, value in zip(session.average.model.parameters(), weights, strict=True):
        own.copy_(value)
