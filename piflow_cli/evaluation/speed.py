"""Where the time of sampling goes: the network, the policy, and how many pictures come of it a second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..generation import denoise
from ..shots import Shot

if TYPE_CHECKING:
    from ..scenes import Scene
    from .subjects import Subject

ROUNDS = 3


@dataclass(frozen=True)
class Speed:
    """Medians over ROUNDS batches of ``batch`` pictures, after one to warm up.

    ``network`` and ``policy`` are seconds of one evaluation of the whole batch, and are None for a teacher, which has no
    policy. ``images``: pictures a second from noise to states, without features and files.
    """

    batch: int
    network: float | None
    policy: float | None
    images: float


def measure_speed(scene: Scene, subject: Subject, shots: Sequence[Shot], *, substeps: int | None, temperature: float | str | None) -> Speed:
    """Time ``subject`` on a batch of ``shots`` of one size, made for this and not taken from the cache."""
    noise, conditioning = scene.noise(shots), scene.conditioning(shots)
    whole = _median(lambda: subject.draw(noise, conditioning), scene.device)
    if subject.kind != "student":
        return Speed(len(shots), None, None, len(shots) / whole)
    student, steps = scene.student, subject.evaluations
    scheduler = student.scheduler(substeps=substeps, temperature=temperature)
    timer = _Timer(scene.device)

    def network(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        with scene.computing():
            return timer(lambda: student.family.call(student.model, x, sigma, conditioning))

    def followed() -> None:
        scheduler.set_timesteps(steps, device=scene.device)
        denoise(network, scheduler, noise, steps)

    rounds = []
    for _ in range(ROUNDS):
        timer.seconds = 0.0
        total = _elapsed(followed, scene.device)
        rounds.append((timer.seconds / steps, (total - timer.seconds) / steps))
    parts = [statistics.median(part) for part in zip(*rounds)]
    return Speed(len(shots), *parts, len(shots) / whole)


class _Timer:
    """Sums the seconds of calls, each to the end of what it started on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    def __call__(self, call: Callable[[], torch.Tensor]) -> torch.Tensor:
        found: list[torch.Tensor] = []
        self.seconds += _elapsed(lambda: found.append(call()), self.device)
        return found[0]


def _median(call: Callable[[], object], device: torch.device) -> float:
    call()
    return statistics.median(_elapsed(call, device) for _ in range(ROUNDS))


def _elapsed(call: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    started = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait for what was started on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
