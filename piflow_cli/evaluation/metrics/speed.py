"""Speed of sampling: seconds of the network and of the policy, and pictures a second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.guidance import Guidance
from ...sampling.denoise import denoise, guided_steps
from ...sampling.request import ImageSpec
from ...sampling.teacher import OwnTeacher
from ..candidates import TEACHER
from ..rows import Row

if TYPE_CHECKING:
    from ...sampling.opened import OpenedModel
    from ..measuring import Measuring

ROUNDS = 3


def speeds(measuring: Measuring) -> Iterator[Row]:
    measuring.console.say("timing")
    request, opened = measuring.request, measuring.compared.opened
    specs = measuring.generation.chunks[0].specs[: measuring.generation.batch_size]
    for candidate in measuring.candidates:
        if candidate.kind == TEACHER:
            found = teacher_speed(opened, measuring.teacher, specs, candidate.evaluations)
        else:
            found = student_speed(opened, specs, candidate.evaluations, request.substeps, request.temperature)
        times = {"images-per-second": found.images, "network-ms": found.network, "policy-ms": found.policy}
        for number, value in times.items():
            if value is not None:
                scale = 1000 if number.endswith("-ms") else 1
                detail = f"batches of {found.batch} on {opened.device}"
                yield measuring.row(candidate, number, scale * value, found.batch, detail=detail)


@dataclass(frozen=True)
class Speed:
    """Medians over ROUNDS of a batch of ``batch`` pictures, after one round to warm up.

    ``network`` and ``policy`` are seconds of one evaluation of the whole batch; ``policy`` is None for a teacher, which
    has none. ``images``: pictures a second from noise to states, without features and files.
    """

    batch: int
    network: float
    policy: float | None
    images: float


@torch.no_grad()
def student_speed(
    opened: OpenedModel, specs: Sequence[ImageSpec], steps: int, substeps: int | None, temperature: float | str | None
) -> Speed:
    """Sample ``specs`` of one size with the student's scheduler, and time network and policy apart."""
    student, noise, conditioning = opened.student, opened.noise(specs), opened.conditioning(specs)
    scheduler = student.scheduler(substeps=substeps, temperature=temperature)
    inside = 0.0

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal inside
        with opened.computing():
            seconds, output = timed(lambda: student.family.call(student.model, x, sigma, conditioning), opened.device)
        inside += seconds
        return output

    rounds = []
    for _ in range(1 + ROUNDS):
        inside = 0.0
        scheduler.set_timesteps(steps, device=opened.device)
        total, _ = timed(lambda: denoise(network, scheduler, noise, steps), opened.device)
        rounds.append((inside / steps, (total - inside) / steps))
    within, after = (statistics.median(part) for part in zip(*rounds[1:]))
    return Speed(len(specs), within, after, len(specs) / (steps * (within + after)))


@torch.no_grad()
def teacher_speed(opened: OpenedModel, teacher: OwnTeacher, specs: Sequence[ImageSpec], steps: int) -> Speed:
    """Time the mean evaluation of a guided teacher on ``specs`` of one size; an Euler step costs next to nothing."""
    noise, conditioning = opened.noise(specs), opened.conditioning(specs)
    sigma = noise.new_ones(len(specs))

    def seconds(guidance: Guidance) -> float:
        asked = replace(teacher, guidance=guidance)
        found = [timed(lambda: asked.velocity(noise, sigma, conditioning), opened.device) for _ in range(1 + ROUNDS)]
        return statistics.median(time for time, _ in found[1:])

    guided = len(guided_steps(teacher.family, steps, teacher.shift, teacher.guidance))
    kinds = {replace(teacher.guidance, interval=(0.0, 1.0)): guided, Guidance(): steps - guided}
    with opened.computing():
        network = sum(times * seconds(guidance) for guidance, times in kinds.items() if times) / steps
    return Speed(len(specs), network, None, len(specs) / (steps * network))


def timed(call: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Seconds of a call, until the device has done what the call started, and its result."""
    _synchronise(device)
    started = time.perf_counter()
    output = call()
    _synchronise(device)
    return time.perf_counter() - started, output


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
