"""Seeds and labels to pictures on disk, from a student or from a teacher itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from . import __version__
from .adapters import load_adapter
from .devices import choose_device
from .errors import UsageError
from .generation import sample_student, sample_teacher, seeded_generators, seeded_noise
from .images import image_grid, save_png, to_images
from .presets import load
from .runs import adapter_folder
from .teachers import family_of
from .teachers.base import guidance_of, to_device
from .teachers.latents import latent_decoder
from .teachers.locate import teacher_folder
from .views import View

if TYPE_CHECKING:
    import torch

    from .console import Console
    from .student import Student

GRID_COLUMNS = 10


@dataclass(frozen=True)
class SampleRequest:
    """What `piflow sample` was asked for; None stands for "as the student was trained" or "as the teacher's preset says".

    With both ``student`` and ``teacher`` the student is sampled, and must have been trained for that teacher.
    """

    student: str | None
    teacher: str | None
    base: str | None
    vae: str | None
    labels: tuple[int, ...] | None
    seeds: tuple[int, ...]
    steps: int | None
    substeps: int | None
    temperature: float | str | None
    stochastic: float
    output: Path
    grid: bool
    metadata: bool
    device: str
    batch_size: int


@dataclass(frozen=True)
class Source:
    """Whatever makes images: a batch of seeds and labels → states in [-1, 1], and the recipe they share."""

    draw: Callable[[list[int], list[int]], Tensor]
    classes: int
    recipe: dict


def sample(request: SampleRequest, console: Console) -> dict:
    """Write one PNG per seed, and a grid, to ``request.output``; returns what was written and how fast."""
    device = choose_device(request.device)
    source = _student_source(request, device) if request.student is not None else _teacher_source(request, device)
    labels = request.labels if request.labels is not None else tuple(range(source.classes))
    # By seed, not by place in the list: a picture stays the same whatever is asked for beside it.
    chosen = {seed: labels[seed % len(labels)] for seed in request.seeds}
    started = time.perf_counter()
    images, files = [], []
    with console.progress(len(request.seeds), description="sampling") as bar:
        for start in range(0, len(request.seeds), request.batch_size):
            seeds = list(request.seeds[start : start + request.batch_size])
            for seed, image in zip(seeds, to_images(source.draw(seeds, [chosen[seed] for seed in seeds]))):
                recipe = {**source.recipe, "seed": seed, "label": chosen[seed]} if request.metadata else None
                files.append(request.output / f"{seed:06d}.png")
                save_png(image, files[-1], recipe)
                images.append(image)
            bar.update(len(seeds))
    seconds = time.perf_counter() - started
    grid = None
    if request.grid:
        grid = request.output / "grid.png"
        save_png(image_grid(images, min(GRID_COLUMNS, len(images))), grid, source.recipe if request.metadata else None)
    return {"images": files, "grid": grid, "seconds": round(seconds, 3), **source.recipe}


def open_student(path: str | Path, teacher: str | None = None, base: str | None = None) -> Student:
    """The student in a run or adapter folder, on ``base`` in place of its own if it is one of adapters.

    Raises UsageError where it was trained for another than ``teacher``.
    """
    student = load_adapter(adapter_folder(Path(path)), base=base)
    if teacher is not None and (name := load(teacher).name) != student.facts.teacher:
        raise UsageError(
            f"{path} was trained for the teacher {student.facts.teacher}, not {name}",
            f"leave --teacher out, or distil one: piflow distill --teacher {teacher}",
        )
    return student


def _student_source(request: SampleRequest, device: torch.device) -> Source:
    student = open_student(request.student, request.teacher, request.base)
    if request.base is not None and not isinstance(student.model, View):
        raise UsageError("--base names the weights below adapters, and this student brings all of its own", "leave --base out")
    student.model.to(device)
    facts = student.facts
    shape = student.family.sample_shape(student.model)
    vae = request.vae if request.vae is not None else facts.vae if facts.vae else None
    decode = latent_decoder(vae, shape[0], device)
    options = {"steps": request.steps, "substeps": request.substeps, "temperature": request.temperature}

    def draw(seeds: list[int], labels: list[int]) -> Tensor:
        generators = seeded_generators(seeds)
        noise = seeded_noise(generators, shape).to(device)
        conditioning = to_device(student.family.condition(student.model, labels), device)
        return decode(
            sample_student(student, noise, conditioning, **options, stochastic=request.stochastic, generators=generators)
        )

    recipe = {
        "piflow": __version__,
        "student": str(request.student),
        "teacher": facts.teacher,
        "policy": facts.policy,
        "iterations": facts.iterations,
        "steps": facts.nfe if request.steps is None else request.steps,
        "substeps": facts.substeps if request.substeps is None else request.substeps,
        "temperature": facts.sampling_temperature if request.temperature is None else request.temperature,
        "stochastic": str(request.stochastic),
    }
    return Source(draw, student.family.class_count(student.model), recipe)


def _teacher_source(request: SampleRequest, device: torch.device) -> Source:
    if request.substeps is not None or request.temperature is not None or request.stochastic != 0:
        raise UsageError(
            "--substeps, --temperature and --stochastic are settings of a policy, and a teacher has none",
            "leave them out, or name a student: piflow sample RUN",
        )
    preset = load(request.teacher)
    family = family_of(preset.teacher.family)
    given = {name: value for name, value in (("base", request.base), ("vae", request.vae)) if value is not None}
    teacher = replace(preset.teacher, **given)
    model = family.load(teacher_folder(family, teacher)).to(device)
    shape = family.sample_shape(model)
    decode = latent_decoder(teacher.vae, shape[0], device)
    guidance = guidance_of(preset.teacher)
    steps = 128 if request.steps is None else request.steps

    def draw(seeds: list[int], labels: list[int]) -> Tensor:
        noise = seeded_noise(seeded_generators(seeds), shape).to(device)
        conditioning = to_device(family.condition(model, labels), device)
        return decode(sample_teacher(family, model, noise, conditioning, steps, preset.policy.shift, guidance))

    recipe = {"piflow": __version__, "teacher": preset.name, "steps": steps, "guidance": guidance.scale}
    return Source(draw, family.class_count(model), recipe)
