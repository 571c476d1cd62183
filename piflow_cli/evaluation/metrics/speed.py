"""Where the time of sampling goes: the network, the policy, and how many pictures come of it a second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...sampling.denoise import denoise
from ...sampling.request import Shot
from ...sampling.teacher import OwnTeacher

if TYPE_CHECKING:
    from ...sampling.opened import Scene

ROUNDS = 3


@dataclass(frozen=True)
class Speed:
    """Medians over ROUNDS of a batch of ``batch`` pictures, after one round to warm up.

    ``network`` and ``policy`` are seconds of one evaluation of the whole batch; ``policy`` is None for a teacher, which has none.
    ``images``: pictures a second from noise to states, without features and files.
    """

    batch: int
    network: float
    policy: float | None
    images: float


@torch.no_grad()
def student_speed(scene: Scene, shots: Sequence[Shot], steps: int, substeps: int | None, temperature: float | str | None) -> Speed:
    """Sample ``shots`` of one size with the student's scheduler, and tell network and policy apart."""
    student, noise, conditioning = scene.student, scene.noise(shots), scene.conditioning(shots)
    scheduler = student.scheduler(substeps=substeps, temperature=temperature)
    inside = 0.0

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal inside
        with scene.computing():
            seconds, output = timed(lambda: student.family.call(student.model, x, sigma, conditioning), scene.device)
        inside += seconds
        return output

    rounds = []
    for _ in range(1 + ROUNDS):
        inside = 0.0
        scheduler.set_timesteps(steps, device=scene.device)
        total, _ = timed(lambda: denoise(network, scheduler, noise, steps), scene.device)
        rounds.append((inside / steps, (total - inside) / steps))
    within, after = (statistics.median(part) for part in zip(*rounds[1:]))
    return Speed(len(shots), within, after, len(shots) / (steps * (within + after)))


@torch.no_grad()
def teacher_speed(scene: Scene, teacher: OwnTeacher, shots: Sequence[Shot], steps: int) -> Speed:
    """Time one evaluation of the guided teacher on ``shots`` of one size; an Euler step costs next to nothing beside it."""
    noise, conditioning = scene.noise(shots), scene.conditioning(shots)
    sigma = noise.new_ones(len(shots))
    with scene.computing():
        seconds = [timed(lambda: teacher.velocity(noise, sigma, conditioning), scene.device)[0] for _ in range(1 + ROUNDS)]
    network = statistics.median(seconds[1:])
    return Speed(len(shots), network, None, len(shots) / (steps * network))


def timed(call: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Seconds of a call, to the end of what it started on the device, and what it returned."""
    _synchronise(device)
    started = time.perf_counter()
    output = call()
    _synchronise(device)
    return time.perf_counter() - started, output


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
