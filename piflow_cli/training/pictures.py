"""Pictures of a run: previews on the way, and teacher beside student at the end, always from the same noise."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.guidance import Guidance
from ..files import replacing_file
from ..generation import sample_student, sample_teacher, seeded_generators, seeded_noise
from ..images import image_grid, save_png, to_images
from ..student import Student
from ..teachers.base import Conditioning, to_device

COLUMNS = 10
PREVIEW_ROWS = 2
FINE_STEPS = 128


def fixed_start(student: Student, rows: int, device: torch.device) -> tuple[Tensor, Conditioning]:
    """Noise of seeds 0, 1, 2, … and labels in turn, for ``rows`` rows of pictures."""
    seeds = list(range(rows * COLUMNS))
    noise = seeded_noise(seeded_generators(seeds), student.family.sample_shape(student.model)).to(device)
    labels = [seed % student.family.class_count(student.model) for seed in seeds]
    return noise, to_device(student.family.condition(student.model, labels), device)


def save_preview(student: Student, path: Path, device: torch.device) -> None:
    """What the student makes of the fixed noise now, with the settings that `piflow sample` takes."""
    noise, conditioning = fixed_start(student, PREVIEW_ROWS, device)
    save_png(image_grid(to_images(sample_student(student, noise, conditioning)), COLUMNS), path)


def save_comparison(student: Student, teacher: nn.Module, guidance: Guidance, path: Path, device: torch.device) -> None:
    """Rows: the teacher at 1 step, the teacher at 128 steps, the student at its NFE; one noise a column."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    noise, conditioning = fixed_start(student, 1, device)
    family, shift, nfe = student.family, student.facts.shift, student.facts.nfe
    rows = {
        f"teacher, {steps} step{'s' if steps > 1 else ''}": sample_teacher(family, teacher, noise, conditioning, steps, shift, guidance)
        for steps in (1, FINE_STEPS)
    }
    rows[f"student, {nfe} NFE"] = sample_student(student, noise, conditioning)
    figure = Figure(figsize=(COLUMNS, len(rows) + 0.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), COLUMNS)
    for axes_row, (title, samples) in zip(grid, rows.items()):
        for axes, image in zip(axes_row, to_images(samples)):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        axes_row[0].set_ylabel(title, rotation=0, ha="right", va="center")
    with replacing_file(path) as aside:
        figure.savefig(aside, format="png", dpi=100)
