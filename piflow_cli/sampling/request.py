"""The request of `piflow sample`, and the specs of the pictures it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.prompts import Prompt
from ..errors import UsageError
from .limits import BasePrecision, Offload, faults_of, listed

if TYPE_CHECKING:
    from torch import Tensor

    from ..students.student import Student

LAYERWISE = ("sequential", "group")  # ways of offloading
GRID_NAME = "grid.png"
PNG, GIF, MP4 = ".png", ".gif", ".mp4"
MP4_PACKAGE = "av"
CLASS_SEEDS = 64  # pictures of a class-conditional model where nothing else is asked


@dataclass(frozen=True)
class SampleRequest:
    """The command's options; None stands for "as the student was trained" or "as the teacher's preset says".

    ``student``: run or adapter folder, .safetensors file or Hub id, ``subfolder`` inside it; or one that is in memory.
    With both ``student`` and ``teacher`` the student is sampled, and must have been trained for that teacher.
    ``labels`` are of class-conditional models; ``prompts`` and what follows them, up to ``compile``, of text-to-image
    ones: texts, or with seed and size. ``prompts_from``: a file or data set of prompts, in its ``text_column``.
    ``references``: pictures to edit, one for all prompts or one for each. ``frames``: of each video. ``mp4``: whether a
    video is an MP4 file beside its GIF; None: where that can be had. ``loras``: further adapters, each with its scale.
    ``overwrite``: pictures of an earlier command may go from ``output``.
    """

    student: str | Student | None = None
    subfolder: str | None = None
    teacher: str | None = None
    base: str | None = None
    vae: str | None = None
    labels: tuple[int, ...] | None = None
    prompts: tuple[str | Prompt, ...] = ()
    prompts_from: str | None = None
    text_column: str | None = None
    references: tuple[str, ...] = ()
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    mp4: bool | None = None
    loras: tuple[tuple[str, float], ...] = ()
    base_precision: BasePrecision | None = None
    offload: Offload = "none"
    compile: bool = False
    seeds: tuple[int, ...] | None = None
    steps: int | None = None
    shift: float | None = None
    substeps: int | None = None
    temperature: float | str | None = None
    stochastic: float = 0.0
    guidance: float | None = None
    output: Path = Path("samples")
    overwrite: bool = False
    grid: bool = True
    metadata: bool = True
    device: str = "auto"
    batch_size: int | None = None

    def check(self) -> None:
        """Raise UsageError with everything that fits no student and no teacher."""
        faults = list(faults_of(self))
        if self.student is None and self.teacher is None:
            faults.append("neither a student nor a teacher given")
        if self.compile and self.offload in LAYERWISE:
            faults.append(
                f"--offload {self.offload} excludes --compile, which would compile for every layer that moves;"
                " take --offload model"
            )
        if faults:
            raise UsageError(listed(faults), "piflow sample --help lists what there is")

    def refuse_text(self, name: str) -> None:
        """Raise UsageError where the class-conditional model ``name`` is asked for something that goes with prompts."""
        given = {
            "a prompt": self.prompts,
            "--prompts": self.prompts_from,
            "--text-column": self.text_column,
            "--reference": self.references,
            "--height": self.height,
            "--width": self.width,
            "--frames": self.frames,
            "--mp4": self.mp4,
            "--lora": self.loras,
            "--base-precision": self.base_precision,
            "--offload": self.offload != "none",
            "--compile": self.compile,
        }
        if named := [option for option, value in given.items() if value]:
            raise UsageError(
                f"{name} is told class labels, not text: {', '.join(named)} {'is' if len(named) == 1 else 'are'} not"
                " for it",
                f"leave {'it' if len(named) == 1 else 'them'} out; a class is chosen by --labels 0",
            )


@dataclass(frozen=True)
class ImageSpec:
    """The spec of one picture: a seed, and a class label or a prompt.

    ``number``: of the prompt among the prompts. ``size``: (width, height) in pixels. ``reference``: path of the picture
    that is edited. ``frames``: of a video.
    """

    seed: int
    label: int | None = None
    prompt: str | None = None
    number: int | None = None
    size: tuple[int, int] | None = None
    reference: str | None = None
    frames: int | None = None

    @property
    def of_class(self) -> int:
        """The label of a picture that has one."""
        assert self.label is not None
        return self.label

    @property
    def title(self) -> str:
        """The prompt or the class, as grids have it above a column."""
        return f"class {self.label}" if self.prompt is None else self.prompt

    @property
    def text(self) -> str:
        """The prompt of a picture that has one."""
        assert self.prompt is not None
        return self.prompt

    @property
    def stem(self) -> str:
        """Name of its file, without the ending."""
        return f"{self.seed:06d}" if self.number is None else f"{self.number:04d}-{self.seed:06d}"

    @property
    def recipe(self) -> dict:
        """What sets it apart from the other pictures of its sampler."""
        if self.size is None:
            return {"seed": self.seed, "label": self.label}
        own = {"reference": self.reference, "frames": self.frames}
        told = {name: value for name, value in own.items() if value is not None}
        return {"seed": self.seed, "prompt": self.prompt, "width": self.size[0], "height": self.size[1], **told}


@dataclass(frozen=True)
class Sampler:
    """A function from image specs to pictures, the specs, and the recipe that the pictures share.

    ``draw``: specs of one size → pictures (B, C, H, W) in [-1, 1], or videos (B, C, F, H, W) where there is a
    ``frame_rate``, of frames a second. ``batch_size``: of pictures made at once, where none
    is asked for. ``columns``: of the grid of all pictures.
    """

    draw: Callable[[Sequence[ImageSpec]], Tensor]
    specs: tuple[ImageSpec, ...]
    recipe: dict
    batch_size: int
    columns: int
    frame_rate: int | None = None


def writes_mp4() -> bool:
    """Whether the package is installed that writes MP4 files."""
    return find_spec(MP4_PACKAGE) is not None


def class_specs(request: SampleRequest, classes: int) -> tuple[ImageSpec, ...]:
    """One picture for each seed of a model with ``classes`` classes; labels follow the seeds.

    A picture depends on its seed, not on its place in the list, so that it stays the same whatever else is asked for.
    """
    seeds = tuple(range(CLASS_SEEDS)) if request.seeds is None else request.seeds
    labels = tuple(range(classes)) if request.labels is None else request.labels
    if max(labels) >= classes:
        raise UsageError(
            f"label {max(labels)} is out of range: this model has classes 0 to {classes - 1}",
            f"choose labels with --labels 0-{classes - 1}",
        )
    return tuple(ImageSpec(seed, labels[seed % len(labels)]) for seed in seeds)


def batches(specs: Sequence[ImageSpec], size: int) -> Iterator[list[ImageSpec]]:
    """``specs`` in groups of one picture size, at most ``size`` in each, in the order in which the sizes first come."""
    groups: dict[tuple[int, int] | None, list[ImageSpec]] = {}
    for spec in specs:
        groups.setdefault(spec.size, []).append(spec)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]
