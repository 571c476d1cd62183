"""A student together with what its pictures are made from: for commands that look at more than its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.prompts import Prompt
from ..students.adapters import load_adapter, read_facts
from ..students.facts import StudentFacts
from ..students.locate import StudentFiles, locate_student
from ..students.open import check_teacher, open_student
from ..students.shared_base import root
from ..students.student import Student
from ..teachers import family_of
from ..teachers.base import Conditioning, to_device
from ..teachers.latents import latent_decoder
from ..teachers.text_to_image import TextToImageFamily, decode_each
from ..weights.quantisation import check_precision, store_in_fp8
from .denoise import seeded_generators, seeded_noise
from .request import BasePrecision, SampleRequest, Shot, class_shots
from .sample import vae_of
from .text import Stage, latent_shape

if TYPE_CHECKING:
    from ..console import Console


@dataclass(frozen=True)
class Scene:
    """A student on a device, and its shots.

    ``condition``: shots of one size → conditioning; ``shape_of``: shape (C, *S) of a shot's states; ``decode``: states (B, C,
    *S) → pictures (B, 1 or 3, H, W) in [-1, 1], not clipped; ``dtype``: what networks compute in.
    """

    student: Student
    path: Path
    shots: tuple[Shot, ...]
    device: torch.device
    condition: Callable[[Sequence[Shot]], Conditioning]
    shape_of: Callable[[Shot], tuple[int, ...]]
    decode: Callable[[Tensor], Tensor]
    dtype: torch.dtype = torch.float32

    def noise(self, shots: Sequence[Shot]) -> Tensor:
        """Initial states (B, C, *S) float32 of shots of one size: each from its seed alone, as `piflow sample` has them."""
        return seeded_noise(seeded_generators([shot.seed for shot in shots]), self.shape_of(shots[0])).to(self.device)

    def conditioning(self, shots: Sequence[Shot]) -> Conditioning:
        """What networks are told of shots of one size, with ``negative_`` entries where the teacher is guided by them."""
        return to_device(self.condition(shots), self.device)

    def computing(self) -> AbstractContextManager:
        """The precision in which networks are to be run, as in training: states stay float32 beside a bf16 base."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def open_scene(
    path: str | Path,
    *,
    device: torch.device,
    console: Console,
    labels: tuple[int, ...] | None = None,
    prompts: tuple[str | Prompt, ...] = (),
    prompts_from: str | None = None,
    text_column: str | None = None,
    seeds: tuple[int, ...] | None = None,
    height: int | None = None,
    width: int | None = None,
    base: str | None = None,
    teacher: str | None = None,
    vae: str | None = None,
    base_precision: BasePrecision | None = None,
    subfolder: str | None = None,
) -> Scene:
    """The student at ``path`` and the shots that `piflow sample` would make of the same options; its errors are raised here too."""
    request = SampleRequest(
        student=str(path), teacher=teacher, base=base, vae=vae, labels=labels, prompts=prompts, prompts_from=prompts_from,
        text_column=text_column, height=height, width=width, base_precision=base_precision, seeds=seeds, subfolder=subfolder,
    )  # fmt: skip
    files = locate_student(path, subfolder)
    facts = read_facts(files, teacher=teacher, base=base, say=console.say)
    check_teacher(path, facts, teacher)
    family = family_of(facts.family, facts.guidance)
    if isinstance(family, TextToImageFamily):
        return _text_scene(request, files, facts, family, device, console)
    request.refuse_text(str(path))
    return _class_scene(request, facts, device)


def _class_scene(request: SampleRequest, facts: StudentFacts, device: torch.device) -> Scene:
    student = open_student(request.student, request.teacher, request.base, subfolder=request.subfolder)
    model, family = student.model.to(device), student.family
    shape = family.sample_shape(model)
    return Scene(
        student=student,
        path=Path(request.student),
        shots=class_shots(request, family.class_count(model)),
        device=device,
        condition=lambda shots: family.condition(model, [shot.label for shot in shots]),
        shape_of=lambda shot: shape,
        decode=latent_decoder(vae_of(request, facts), shape[0], device),
    )


def _text_scene(
    request: SampleRequest, files: StudentFiles, facts: StudentFacts, family: TextToImageFamily, device: torch.device, console: Console
) -> Scene:
    precision = facts.base_precision if request.base_precision is None else request.base_precision
    check_precision(precision, device)
    # The teacher's half without a text; a network that is told the scale needs none.
    guided = facts.guidance != 1 and not family.embeds_guidance
    base, revision = (facts.base, facts.revision) if request.base is None else (request.base, "")
    stage = Stage.open(request, family, base, revision or None, precision, guided, device, console)
    student = load_adapter(files, base=request.base, teacher=request.teacher, precision=precision)
    if precision == "fp8":
        store_in_fp8(root(student.model), family.kept_whole(root(student.model)))
    student.model.to(device)
    vae = family.load_vae(stage.folder).to(device)
    return Scene(
        student=student,
        path=Path(request.student),
        shots=stage.shots,
        device=device,
        condition=stage.conditioning,
        shape_of=lambda shot: latent_shape(family, root(student.model), shot),
        decode=torch.no_grad()(lambda states: decode_each(family, vae, states)),
        dtype=stage.dtype,
    )
