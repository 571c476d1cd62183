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
from .request import BasePrecision, ImageSpec, SampleRequest, class_specs
from .sample import vae_of
from .text import EncodedPrompts, latent_shape

if TYPE_CHECKING:
    from ..console import Console


@dataclass(frozen=True)
class OpenedModel:
    """A student on a device, and its shots.

    ``condition``: shots of one size → conditioning; ``shape_of``: shape (C, *S) of a
    shot's states; ``decode``: states (B, C,
    *S) → pictures (B, 1 or 3, H, W) in [-1, 1], not clipped; ``dtype``: what networks compute in.
    """

    student: Student
    path: Path
    specs: tuple[ImageSpec, ...]
    device: torch.device
    condition: Callable[[Sequence[ImageSpec]], Conditioning]
    shape_of: Callable[[ImageSpec], tuple[int, ...]]
    decode: Callable[[Tensor], Tensor]
    dtype: torch.dtype = torch.float32

    def noise(self, specs: Sequence[ImageSpec]) -> Tensor:
        """Initial states (B, C, *S) float32 of shots of one size: each from its
        seed alone, as `piflow sample` has them."""
        return seeded_noise(seeded_generators([spec.seed for spec in specs]), self.shape_of(specs[0])).to(self.device)

    def conditioning(self, specs: Sequence[ImageSpec]) -> Conditioning:
        """What networks are told of shots of one size, with ``negative_``
        entries where the teacher is guided by them."""
        return to_device(self.condition(specs), self.device)

    def computing(self) -> AbstractContextManager:
        """The precision in which networks are to be run, as in training: states stay float32 beside a bf16 base."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def open_model(
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
) -> OpenedModel:
    """The student at ``path`` and the shots that `piflow sample` would make of the same
    options; its errors are raised here too."""
    request = SampleRequest(
        student=str(path), teacher=teacher, base=base, vae=vae, labels=labels, prompts=prompts,
        prompts_from=prompts_from,
        text_column=text_column, height=height, width=width, base_precision=base_precision, seeds=seeds,
        subfolder=subfolder,
    )  # fmt: skip
    files = locate_student(path, subfolder)
    facts = read_facts(files, teacher=teacher, base=base, say=console.say)
    check_teacher(path, facts, teacher)
    family = family_of(facts.family, facts.guidance)
    if isinstance(family, TextToImageFamily):
        return _text_model(request, files, facts, family, device, console)
    request.refuse_text(str(path))
    return _class_model(request, facts, device)


def _class_model(request: SampleRequest, facts: StudentFacts, device: torch.device) -> OpenedModel:
    student = open_student(request.student, request.teacher, request.base, subfolder=request.subfolder)
    model, family = student.model.to(device), student.family
    shape = family.sample_shape(model)
    return OpenedModel(
        student=student,
        path=Path(request.student),
        specs=class_specs(request, family.class_count(model)),
        device=device,
        condition=lambda specs: family.condition(model, [spec.label for spec in specs]),
        shape_of=lambda spec: shape,
        decode=latent_decoder(vae_of(request, facts), shape[0], device),
    )


def _text_model(
    request: SampleRequest,
    files: StudentFiles,
    facts: StudentFacts,
    family: TextToImageFamily,
    device: torch.device,
    console: Console,
) -> OpenedModel:
    precision = facts.base_precision if request.base_precision is None else request.base_precision
    check_precision(precision, device)
    # The teacher's half without a text; a network that is told the scale needs none.
    guided = facts.guidance != 1 and not family.embeds_guidance
    base, revision = (facts.base, facts.revision) if request.base is None else (request.base, "")
    encoded = EncodedPrompts.open(request, family, base, revision or None, precision, guided, device, console)
    student = load_adapter(files, base=request.base, teacher=request.teacher, precision=precision)
    if precision == "fp8":
        store_in_fp8(root(student.model), family.kept_whole(root(student.model)))
    student.model.to(device)
    vae = family.load_vae(encoded.folder).to(device)
    return OpenedModel(
        student=student,
        path=Path(request.student),
        specs=encoded.specs,
        device=device,
        condition=encoded.conditioning,
        shape_of=lambda spec: latent_shape(family, root(student.model), spec),
        decode=torch.no_grad()(lambda states: decode_each(family, vae, states)),
        dtype=encoded.dtype,
    )
