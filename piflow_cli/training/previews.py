"""Pictures of a run: previews on the way, and teacher beside student at the end, always from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.guidance import Guidance
from ..core.tensors import to_device
from ..reports.grids import comparison_grid
from ..reports.images import save_png, to_images
from ..reports.videos import strip_places, to_videos
from ..sampling.denoise import sample_student, sample_teacher, seeded_generators, seeded_noise
from ..students.student import Student
from ..teachers.base import Conditioning, Network
from ..teachers.class_conditional import ClassConditionalFamily
from ..teachers.decoders import open_decoder
from ..teachers.latents import latent_decoder
from ..teachers.text_to_image import TextToImageFamily

if TYPE_CHECKING:
    from PIL import Image

    from ..data.batches import TrainingData
    from ..presets.schema import Preset

COLUMNS, PREVIEW_ROWS = 10, 2
TEXT_COLUMNS, VIDEOS = 4, 2


@dataclass(frozen=True)
class Gallery:
    """The start of all pictures of a run: ``noise`` (N, C, *S) of seeds 0, 1, 2, …, and its conditioning.

    ``show`` turns states into pictures or videos in [-1, 1]. A row has ``columns``, each with one of ``titles`` if
    there are any; a video is a row of its own, with some of its frames.
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
        columns = TEXT_COLUMNS if family.frame_step is None else VIDEOS
        batch = data.batch(preset.seed, 0, columns)
        noise = seeded_noise(seeded_generators(range(columns)), batch.shape[1:])
        conditioning = to_device(batch.conditioning, device, family.read_on_host)
        return Gallery(noise.to(device), conditioning, show, columns, batch.texts)
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
    shown, columns = gallery.show(states), gallery.columns
    rows = {
        f"seeds {first} to {first + columns - 1}": shown[first : first + columns]
        for first in range(0, len(shown), columns)
    }
    save_png(_grid(rows, gallery.titles), path)


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
    save_png(_grid({name: gallery.show(states) for name, states in rows.items()}, gallery.titles), path)


def _grid(rows: Mapping[str, Tensor], titles: Sequence[str]) -> Image.Image:
    """Rows of pictures (N, C, H, W); of videos (N, C, F, H, W) each is a row of frames."""
    if all(shown.ndim == 4 for shown in rows.values()):
        return comparison_grid({name: to_images(shown) for name, shown in rows.items()}, titles)
    strips: dict[str, list[Image.Image]] = {}
    times: list[str] = []
    for name, shown in rows.items():
        for title, frames in zip(titles, to_videos(shown)):
            places = strip_places(len(frames))
            times = [f"frame {place + 1}" for place in places]
            strips[f"{name}: {title}"] = [frames[place] for place in places]
    return comparison_grid(strips, times)
