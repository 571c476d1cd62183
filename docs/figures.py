"""The pictures of README and docs: teacher and student from the same noise.

    piflow distill --teacher digits && piflow distill --teacher emoji
    python docs/figures.py RUN_OF_DIGITS --emoji RUN_OF_EMOJI

Written into docs/pages/figures: ``digits.png`` and ``emoji.png`` from those runs, ``spiral.png`` from
docs/hundred_lines.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import hundred_lines
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from piflow_cli import load_student, sample
from piflow_cli.core.guidance import Guidance
from piflow_cli.reports.images import to_images
from piflow_cli.sampling.denoise import sample_student, sample_teacher, seeded_generators, seeded_noise
from piflow_cli.weights.locate import locate

FOLDER = Path(__file__).parent / "pages" / "figures"
COLUMNS = 10
FINE_STEPS = 128


DRAWN = (
    "grinning face",
    "red heart",
    "cat face",
    "flag of canada",
    "slice of pizza",
    "rocket",
    "woman teacher, dark skin tone",
    "soccer ball",
    "rainbow",
    "clock face three oclock",
)


def emoji(run: Path) -> Figure:
    """Ten prompts from one seed: the teacher at the student's steps, at 50, and the student."""
    rows = {
        "teacher, 4 evaluations": sample(teacher="emoji", prompts=DRAWN, seeds=[0], steps=4),
        "teacher, 50 evaluations": sample(teacher="emoji", prompts=DRAWN, seeds=[0], steps=50),
        "student, 4 evaluations": sample(run, DRAWN, seeds=[0]),
    }
    figure = Figure(figsize=(10.9, 2.7), dpi=100, layout="constrained")
    # Pictures keep their shape, and long titles of rows would lose their first letter.
    figure.get_layout_engine().set(rect=(0.015, 0, 0.985, 1))
    for axes, (title, pictures) in zip(figure.subplots(len(rows), 1), rows.items()):
        axes.imshow(np.concatenate([np.asarray(picture.convert("RGB")) for picture in pictures], axis=1))
        axes.set_ylabel(title, rotation=0, ha="right", va="center")
        bare(axes)
    return figure


@torch.no_grad()
def digits(run: Path) -> Figure:
    """Digits 0 to 9 from seeds 0 to 9: the teacher at the student's steps, at many, and the student."""
    student = load_student(run)
    noise = seeded_noise(seeded_generators(range(COLUMNS)), student.family.sample_shape(student.model))
    teacher = student.family.load(locate("preset:digits"))
    condition = student.family.condition(teacher, list(range(COLUMNS)))
    nfe = student.facts.nfe

    def of_teacher(steps: int) -> Tensor:
        return sample_teacher(student.family, teacher, noise, condition, steps, student.facts.shift, Guidance())

    rows = {
        f"teacher, {nfe} evaluation": of_teacher(nfe),
        f"teacher, {FINE_STEPS} evaluations": of_teacher(FINE_STEPS),
        f"student, {nfe} evaluation": sample_student(student, noise, condition),
    }
    figure = Figure(figsize=(10, 2.7), dpi=100, layout="constrained")
    for axes, (title, states) in zip(figure.subplots(len(rows), 1), rows.items()):
        strip = torch.cat([torch.nn.functional.pad(state, (1, 0), value=1.0) for state in states], dim=2)
        axes.imshow(to_images(strip.unsqueeze(0))[0], cmap="gray", interpolation="nearest")
        axes.set_ylabel(title, rotation=0, ha="right", va="center")
        bare(axes)
    return figure


def spiral() -> Figure:
    """Where 4,096 draws of noise end: teacher and student of docs/hundred_lines.py."""
    torch.manual_seed(0)
    noise, student = torch.randn(4096, 2, 1), hundred_lines.train(hundred_lines.Student())
    ends = {
        "noise": noise,
        "teacher, 8 evaluations": hundred_lines.teacher_sample(noise, 8),
        "teacher, 256 evaluations": hundred_lines.teacher_sample(noise, 256),
        "student, 1 evaluation": hundred_lines.sample(student, noise),
    }
    figure = Figure(figsize=(10, 2.8), dpi=110, layout="constrained")
    for axes, (title, points) in zip(figure.subplots(1, len(ends)), ends.items()):
        axes.scatter(*points.squeeze(2).T, s=0.8, color="#334488", linewidths=0)
        axes.set(title=title, xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
        axes.title.set_fontsize(10)
        bare(axes)
    return figure


def bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def save(figure: Figure, name: str, colours: int = 64) -> None:
    """Reduced to so many ``colours``, which a page does not show and a repository does."""
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(colours)
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture.save(FOLDER / name, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of the preset digits")
    parser.add_argument("--emoji", type=Path, help="a run of the preset emoji")
    options = parser.parse_args(arguments)
    if options.emoji is not None:
        save(emoji(options.emoji), "emoji.png", 256)
    save(digits(options.run), "digits.png")
    save(spiral(), "spiral.png")


if __name__ == "__main__":
    main()
