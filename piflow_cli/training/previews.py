"""Pictures of a run: previews on the way, and teacher beside student at the end, always from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.guidance import Guidance
from ..core.tensors import to_device
from ..reports.grids import comparison_grid
from ..reports.images import save_png, to_images
from ..sampling.denoise import sample_student, sample_teacher, seeded_generators, seeded_noise
from ..students.student import Student
from ..teachers.base import Conditioning, Network
from ..teachers.class_conditional import ClassConditionalFamily
from ..teachers.decoders import open_decoder
from ..teachers.latents import latent_decoder
from ..teachers.text_to_image import TextToImageFamily

if TYPE_CHECKING:
    from ..data.batches import TrainingData
    from ..presets.schema import Preset

COLUMNS, PREVIEW_ROWS = 10, 2
TEXT_COLUMNS = 4


@dataclass(frozen=True)
class Gallery:
    """The start of all pictures of a run: ``noise`` (N, C, *S) of seeds 0, 1, 2, …, and its conditioning.

    ``show`` turns states into pictures in [-1, 1]. A row has ``columns``, each with one of ``titles`` if there are any.
    """

    noise: Tensor
    conditioning: Conditioning
    show: Callable[[Tensor], Tensor]
    columns: int
    titles: Sequence[str] = ()


def open_gallery(
    preset: Preset, student: Student, data: TrainingData, device: torch.device, say: Callable[[str], None]
) -> Gallery | None:
    """Classes in turn, or the first texts of the training data.

    Returns None, with a line to ``say``, where nothing shows latents.
    """
    family = student.family
    if isinstance(family, TextToImageFamily):
        show = open_decoder(family, preset.teacher, device)
        if show is None:
            say(f"no pictures of this run: {preset.teacher.base} has no VAE")
            return None
        batch = data.batch(preset.seed, 0, TEXT_COLUMNS)
        noise = seeded_noise(seeded_generators(range(TEXT_COLUMNS)), batch.shape[1:])
        conditioning = to_device(batch.conditioning, device, family.read_on_host)
        return Gallery(noise.to(device), conditioning, show, TEXT_COLUMNS, batch.texts)
    assert isinstance(family, ClassConditionalFamily), "a teacher is told a text or a class"
    seeds = range(PREVIEW_ROWS * COLUMNS)
    shape = family.sample_shape(student.model)
    show = latent_decoder(preset.teacher.vae, shape[0], device)
    noise = seeded_noise(seeded_generators(seeds), shape)
    labels = [seed % family.class_count(student.model) for seed in seeds]
    conditioning = to_device(family.condition(student.model, labels), device)
    # Rows go on with other classes where there are not as many as columns.
    titles = [f"class {label}" for label in labels[:COLUMNS]] if labels[:COLUMNS] == labels[-COLUMNS:] else ()
    return Gallery(noise.to(device), conditioning, show, COLUMNS, titles)


def save_preview(student: Student, gallery: Gallery, path: Path | None) -> None:
    """Save pictures of the fixed noise by the student as it is now, with the settings of `piflow sample`.

    ``path``: None on a process that draws because another could not do so without its part of the weights.
    """
    states = sample_student(student, gallery.noise, gallery.conditioning)
    if path is None:
        return
    images, columns = to_images(gallery.show(states)), gallery.columns
    rows = {
        f"seeds {first} to {first + columns - 1}": images[first : first + columns]
        for first in range(0, len(images), columns)
    }
    save_png(comparison_grid(rows, gallery.titles), path)


def save_comparison(
    student: Student, teacher: Network, guidance: Guidance, gallery: Gallery, path: Path | None
) -> None:
    """Rows: the teacher at 1 step, the teacher at its best, the student at its NFE; one noise a column.

    ``path``: as of :func:`save_preview`.
    """
    columns, family, facts = gallery.columns, student.family, student.facts
    noise = gallery.noise[:columns]
    conditioning = {name: value[:columns] for name, value in gallery.conditioning.items()}
    rows = {
        f"teacher, {steps} step{'s' if steps > 1 else ''}": sample_teacher(
            family, teacher, noise, conditioning, steps, facts.shift, guidance
        )
        for steps in (1, family.beside_steps)
    }
    rows[f"student, {facts.nfe} NFE"] = sample_student(student, noise, conditioning)
    if path is None:
        return
    save_png(
        comparison_grid({name: to_images(gallery.show(states)) for name, states in rows.items()}, gallery.titles), path
    )
