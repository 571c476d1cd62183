"""From seeds with labels or prompts to pictures on disk, from a student or from a teacher itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import __version__
from ..console import SILENT
from ..core.tensors import to_device
from ..errors import UsageError
from ..presets.idle import idle_options
from ..presets.resolve import load
from ..reports.images import image_grid, read_png, save_png, write_bytes
from ..reports.recipes import GRID_KEY
from ..students.evaluations import steps_warning
from ..students.open import FoundStudent, LoadedStudent, find_student
from ..students.student import Student
from ..system.group import Processes, open_processes
from ..system.outputs import clear
from ..teachers import family_of
from ..teachers.base import TeacherFamily, guidance_of
from ..teachers.class_conditional import ClassConditionalFamily
from ..teachers.folders import on_base, teacher_folder
from ..teachers.latents import PICTURE_CHANNELS, latent_decoder
from ..teachers.text_to_image import TextToImageFamily
from .denoise import sample_student, sample_teacher, seeded_generators, seeded_noise
from .early import check, is_of_sample
from .files import drawn, endings_of
from .request import GRID_NAME, MP4, ImageSpec, Sampler, SampleRequest, batches, class_specs
from .text import text_student_sampler, text_teacher_sampler

if TYPE_CHECKING:
    import torch

    from ..console import Console
    from ..presets.schema import Preset
    from ..students.facts import StudentFacts
    from ..teachers.latents import Decode

GRID_COLUMNS = 10
MOST_IN_GRID = 1000
CLASS_BATCH = 64


def sample(request: SampleRequest, console: Console) -> dict:
    """Write one PNG per picture, or a GIF per video, and a grid to ``request.output``.

    Returns what was written and how fast. The grid has a row of frames for each video. Several processes take turns
    with the batches, so that pictures are those of one process. The first of them writes, and on the others there are
    no ``images`` in what is returned.
    """
    check(request)
    processes = open_processes(request.device)
    sampler = processes.together(lambda: _sampler(request, processes, console))
    size = sampler.batch_size if request.batch_size is None else request.batch_size
    parts = list(batches(sampler.specs, size))
    if processes.first:
        _tell_of_idle(processes, parts, size, console)
    grid = _grid(request, sampler, console)
    endings = endings_of(request, sampler, console if processes.first else SILENT)
    started = time.perf_counter()
    pictures: dict[ImageSpec, Sequence[bytes]] = {}
    with console.progress(len(sampler.specs), description="sampling") as bar:
        for turn in processes.turns(parts):
            for made in processes.gather(lambda: drawn(request, sampler, endings, processes.share(turn))):
                for spec, one in made.items():
                    for ending, content in one.files.items():
                        write_bytes(content, _file(request, spec, ending))
                    if grid is not None:
                        pictures[spec] = one.shown
            bar.update(sum(map(len, turn)))
    seconds = time.perf_counter() - started
    specs = sampler.specs if processes.first else ()
    written = {ending: [_file(request, spec, ending) for spec in specs] for ending in endings}
    files = written[endings[0]]
    if processes.first and request.overwrite:
        kept = {path for paths in written.values() for path in paths}
        clear(request.output, is_of_sample, keep={*kept, *([] if grid is None else [grid])})
    if processes.first and grid is not None:
        # Pictures are made size by size, and shown in the order in which they were asked for.
        cells = [read_png(png) for spec in sampler.specs for png in pictures[spec]]
        video = pictures[sampler.specs[0]] if sampler.frame_rate is not None else ()
        whole = image_grid(cells, len(video) or sampler.columns)
        # Marked even where no recipe is wanted, so that nobody counts it among the pictures.
        save_png(whole, grid, {**(sampler.recipe if request.metadata else {}), GRID_KEY: True})
    movies = {"mp4": written[MP4]} if MP4 in written else {}
    return {"images": files, **movies, "grid": grid, "seconds": round(seconds, 3), **sampler.recipe}


def _sampler(request: SampleRequest, processes: Processes, console: Console) -> Sampler:
    if request.student is None:
        return _teacher_sampler(request, processes, console)
    return _student_sampler(_found(request.student, request, console), request, processes, console)


def _tell_of_idle(processes: Processes, parts: Sequence[Sequence[ImageSpec]], size: int, console: Console) -> None:
    """Warn where some processes have nothing to do; to make smaller batches unasked would change the last digits."""
    if len(parts) >= processes.count:
        return
    pictures = sum(map(len, parts))
    smaller = max(1, pictures // processes.count)
    batch = "1 batch" if len(parts) == 1 else f"{len(parts)} batches"
    remedy = f": --batch-size {smaller} would make more" if smaller < size and pictures >= processes.count else ""
    console.warn(f"{batch} for {processes.count} processes, of which {processes.count - len(parts)} wait{remedy}")


def _grid(request: SampleRequest, sampler: Sampler, console: Console) -> Path | None:
    """The path of the grid; None where none is made."""
    if request.grid and len(sampler.specs) > MOST_IN_GRID:
        console.warn(f"no grid is made of more than {MOST_IN_GRID:,} pictures, which would all be in memory at once")
        return None
    return request.output / GRID_NAME if request.grid else None


def _file(request: SampleRequest, spec: ImageSpec, ending: str) -> Path:
    return request.output / f"{spec.stem}{ending}"


def _student_sampler(
    found: FoundStudent | LoadedStudent, request: SampleRequest, processes: Processes, console: Console
) -> Sampler:
    facts = found.facts
    recipe = {
        "piflow": __version__,
        "student": found.named,
        "teacher": facts.teacher,
        "policy": facts.policy,
        "iterations": facts.iterations,
        "steps": facts.nfe if request.steps is None else request.steps,
        "shift": facts.sampling_shift(request.shift),
        "substeps": facts.substeps if request.substeps is None else request.substeps,
        "temperature": facts.sampling_temperature if request.temperature is None else request.temperature,
        "stochastic": request.stochastic,
    }
    _warn_of_mismatch(request, facts, console)
    embeds = family_of(facts.family).embeds_guidance and request.guidance is not None
    family = family_of(facts.family, request.guidance if embeds else facts.guidance)
    if isinstance(family, TextToImageFamily):
        return text_student_sampler(request, found, family, recipe, processes, console)
    request.refuse_text(found.named)
    return _class_student_sampler(request, found, recipe, processes.device)


def _found(student: str | Student, request: SampleRequest, console: Console) -> FoundStudent | LoadedStudent:
    """The student of that name, or the one in memory."""
    if not isinstance(student, Student):
        return find_student(student, request.teacher, request.base, subfolder=request.subfolder, say=console.say)
    asked = {name: getattr(request, name) for name in ("teacher", "base", "subfolder", "base_precision")}
    lasting = {"loras": request.loras, "offload": request.offload != "none", "compile": request.compile}
    if named := [name for name, value in (asked | lasting).items() if value]:
        raise UsageError(
            f"{', '.join(named)}: settings of a student that is still to be loaded, and this one is in memory",
            "leave them out, or name the student by its path",
        )
    return LoadedStudent(student)


def _warn_of_mismatch(request: SampleRequest, facts: StudentFacts, console: Console) -> None:
    """Warn of each setting that differs from distillation, or that does nothing to this kind of policy."""
    if request.guidance is not None and request.guidance != facts.guidance:
        effect = "pictures may suffer" if family_of(facts.family).embeds_guidance else "it has no effect"
        console.warn(
            f"the student has guidance {facts.guidance:g} distilled in: --guidance {request.guidance:g} is another, and"
            f" {effect}"
        )
    if request.steps is not None and (line := steps_warning(facts, request.steps)) is not None:
        console.warn(line)
    if request.shift is not None and request.shift != facts.shift:
        console.warn(
            f"the student was distilled at shift {facts.shift:g}: pictures of --shift {request.shift:g} may suffer"
        )
    steps = facts.nfe if request.steps is None else request.steps
    for line in idle_options(facts.policy, steps, request.substeps, request.temperature, request.stochastic):
        console.warn(line)


def _class_student_sampler(
    request: SampleRequest, found: FoundStudent | LoadedStudent, recipe: dict, device: torch.device
) -> Sampler:
    student = found.load()
    student.model.to(device)
    facts, family = student.facts, student.family
    assert isinstance(family, ClassConditionalFamily), "a student is told a text or a class"
    shape = family.sample_shape(student.model)
    decode = class_decoder(request, facts.vae, shape[0], device)
    options: dict[str, Any] = {
        "steps": request.steps,
        "shift": request.shift,
        "substeps": request.substeps,
        "temperature": request.temperature,
    }

    def draw(specs: Sequence[ImageSpec]) -> Tensor:
        generators = seeded_generators([spec.seed for spec in specs])
        told = family.condition(student.model, [spec.of_class for spec in specs])
        noise, conditioning = to_device((seeded_noise(generators, shape), told), device)
        return decode(
            sample_student(
                student, noise, conditioning, **options, stochastic=request.stochastic, generators=generators
            )
        )

    return _class_sampler(request, draw, family.class_count(student.model), recipe)


def class_decoder(request: SampleRequest, trained: str | None, channels: int, device: torch.device) -> Decode:
    """The decoder of a class-conditional model's states, by the VAE that is asked for or was ``trained`` with.

    Raises UsageError as :func:`~piflow_cli.teachers.latents.latent_decoder` does, and for a VAE of a model of pixels.
    """
    if request.vae is not None and not trained and channels in PICTURE_CHANNELS:
        raise UsageError("--vae decodes latents, and this model makes pictures without one", "leave --vae out")
    return latent_decoder(request.vae if request.vae is not None else trained if trained else None, channels, device)


def _teacher_sampler(request: SampleRequest, processes: Processes, console: Console) -> Sampler:
    assert request.teacher is not None
    preset = load(request.teacher)
    section = on_base(preset.teacher, request.base)
    if request.guidance is not None:
        section = replace(section, guidance=request.guidance, guidance_2=None)
    preset = replace(preset, teacher=section)
    family = family_of(section.family, section.guidance, section.guidance_2)
    recipe = {"piflow": __version__, "teacher": preset.name}
    if isinstance(family, TextToImageFamily):
        return text_teacher_sampler(request, preset, family, recipe, processes, console)
    request.refuse_text(f"the teacher {preset.name}")
    return _class_teacher_sampler(request, preset, family, recipe, processes.device)


def _class_teacher_sampler(
    request: SampleRequest, preset: Preset, family: TeacherFamily, recipe: dict, device: torch.device
) -> Sampler:
    assert isinstance(family, ClassConditionalFamily), "a teacher is told a text or a class"
    model = family.load(teacher_folder(family, preset.teacher)).to(device)
    shape = family.sample_shape(model)
    decode = class_decoder(request, preset.teacher.vae, shape[0], device)
    guidance = guidance_of(preset.teacher)
    steps = family.fine_steps if request.steps is None else request.steps

    def draw(specs: Sequence[ImageSpec]) -> Tensor:
        noise = seeded_noise(seeded_generators([spec.seed for spec in specs]), shape)
        noise, conditioning = to_device((noise, family.condition(model, [spec.of_class for spec in specs])), device)
        return decode(sample_teacher(family, model, noise, conditioning, steps, preset.policy.shift, guidance))

    return _class_sampler(
        request, draw, family.class_count(model), {**recipe, "steps": steps, "guidance": guidance.scale}
    )


def _class_sampler(request: SampleRequest, draw, classes: int, recipe: dict) -> Sampler:
    specs = class_specs(request, classes)
    return Sampler(draw, specs, recipe, CLASS_BATCH, min(GRID_COLUMNS, len(specs)))
