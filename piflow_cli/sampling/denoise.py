"""From noise to images: one loop for students and teachers, since both are a network under a diffusers scheduler."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.guidance import Guidance
from ..core.tensors import all_finite
from ..core.timegrid import TimeGrid
from ..core.validation import PolicyError
from ..errors import RunError
from ..reports.images import DIVERGED
from ..students.scheduler import PolicyScheduler
from ..students.student import Student
from ..teachers.base import Conditioning, GuidedRows, Network, TeacherFamily, guided_rows, teacher_velocity

if TYPE_CHECKING:
    from ..teachers.text_to_image import TextToImageFamily

DIVERGED_OR_LORA = f"{DIVERGED}; or leave --lora out"
Evaluate = Callable[[Tensor, Tensor], Tensor]
"""States (B, C, *S) and noise levels (B,) → what the scheduler's step() takes."""


def seeded_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator per seed, on the CPU, so that an image depends neither on its batch nor on the device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def seeded_noise(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Initial noise (B, *shape), each sample from its own generator."""
    return torch.stack([torch.randn(*shape, generator=generator) for generator in generators])


@torch.no_grad()
def denoise(
    network: Evaluate, scheduler, x: Tensor, steps: int, generators: list[torch.Generator] | None = None
) -> Tensor:
    """Run ``scheduler`` from noise ``x`` (B, C, *S) with ``steps`` evaluations of ``network``; returns x_0.

    Raises RunError where the network's output is no policy, or leads to states that are not finite.
    """
    # Known here, the index need not be read off a timestep that lies on the device.
    scheduler.set_begin_index(0)
    with _explained():
        for timestep, level in zip(scheduler.timesteps[:steps], noise_levels(scheduler)):
            sigma = level.expand(x.shape[0]).to(x.device)
            x = scheduler.step(network(x, sigma), timestep, x, generator=generators, return_dict=False)[0]
    return _finite(x)


def sample_student(
    student: Student,
    x: Tensor,
    conditioning: Conditioning,
    *,
    steps: int | None = None,
    shift: float | None = None,
    substeps: int | None = None,
    temperature: float | str | None = None,
    stochastic: float = 0.0,
    generators: list[torch.Generator] | None = None,
) -> Tensor:
    """Samples (B, C, *S) of a student from noise ``x``; arguments that are None are as trained."""
    scheduler = student.scheduler(shift=shift, substeps=substeps, temperature=temperature, stochastic=stochastic)
    nfe = student.facts.nfe if steps is None else steps
    scheduler.set_timesteps(nfe, device=x.device)

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        return student.family.call(student.model, x, sigma, conditioning)

    return denoise(network, scheduler, student.family.parameterisation.first_state(x), nfe, generators)


def sample_teacher(
    family: TeacherFamily,
    model: Network,
    x: Tensor,
    conditioning: Conditioning,
    steps: int,
    shift: float,
    guidance: Guidance,
) -> Tensor:
    """Samples (B, C, *S) of a teacher from noise ``x`` by ``steps`` Euler steps, even in raw time under ``shift``.

    They begin where the teacher's noisiest state is.
    """
    parameterisation = family.parameterisation
    scheduler = _euler(steps, shift, parameterisation.noisiest, x.device)
    guided, places = _acting(scheduler, guidance), count()

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        size = len(x) if next(places) in guided else 0
        rows = GuidedRows(torch.arange(size), torch.arange(size, device=x.device))
        return teacher_velocity(family, model, guidance, x, sigma, conditioning, rows)

    return denoise(network, scheduler, parameterisation.first_state(x), steps)


def noise_levels(scheduler: Any) -> Tensor:
    """The noise level (steps,) of each of a scheduler's timesteps, on their device."""
    if isinstance(scheduler, PolicyScheduler):
        return scheduler.levels
    return scheduler.timesteps / scheduler.config.num_train_timesteps


def guided_steps(family: TeacherFamily, steps: int, shift: float, guidance: Guidance) -> set[int]:
    """Those of the Euler steps of :func:`sample_teacher`, from 0, at whose noise levels ``guidance`` acts."""
    return _acting(_euler(steps, shift, family.parameterisation.noisiest, torch.device("cpu")), guidance)


def _acting(scheduler: Any, guidance: Guidance) -> set[int]:
    return set(guided_rows(guidance, noise_levels(scheduler)).tolist())


def _euler(steps: int, shift: float, noisiest: float, device: torch.device) -> Any:
    # Only where a teacher is drawn: it brings scipy.stats, which takes a second.
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shift)
    start = TimeGrid(1, shift=shift, noisiest=noisiest).start
    scheduler.set_timesteps(sigmas=np.linspace(start, start / steps, steps), device=device)
    return scheduler


def sample_by_pipeline(
    family: TextToImageFamily, pipeline: Any, x: Tensor, conditioning: Conditioning, steps: int
) -> Tensor:
    """Latents (B, C, *S) that a stock pipeline makes of noise ``x`` in ``steps`` evaluations.

    With ``negative_`` entries in ``conditioning`` the pipeline applies guidance itself, which no policy can take.
    Errors are those of :func:`denoise`.
    """
    if family.one_at_a_time and len(x) > 1:
        return _one_by_one(family, pipeline, x, conditioning, steps)
    noise = family.to_pipeline(x)
    with _explained():
        # Of pictures or of videos, by the names of their kinds.
        latents = pipeline(
            **family.pipeline_inputs(conditioning),
            **family.pipeline_size(pipeline, x),
            latents=noise if family.casts_noise else noise.to(conditioning["prompt_embeds"].dtype),
            num_inference_steps=steps,
            output_type="latent",
        )[0]
    return _finite(family.from_pipeline(latents, *x.shape[-2:]))


def _one_by_one(family: TextToImageFamily, pipeline: Any, x: Tensor, conditioning: Conditioning, steps: int) -> Tensor:
    """What :func:`sample_by_pipeline` makes of each sample by a call of its own."""
    scheduler, made = pipeline.scheduler, []
    generators = scheduler.generator if isinstance(scheduler, PolicyScheduler) else None
    for row in range(len(x)):
        if isinstance(generators, list):
            scheduler.generator = [generators[row]]
        told = {name: value[row : row + 1] for name, value in conditioning.items()}
        made.append(sample_by_pipeline(family, pipeline, x[row : row + 1], told, steps))
    return torch.cat(made)


@contextmanager
def _explained() -> Generator[None]:
    try:
        yield
    except PolicyError as error:
        raise RunError(f"the network's output is no policy: {error}", DIVERGED_OR_LORA) from error


def _finite(states: Tensor) -> Tensor:
    """``states``, all finite: others would become black pixels, and raise RunError here."""
    if not all_finite(states):
        raise RunError("sampling ended in states that are not finite", DIVERGED_OR_LORA)
    return states
