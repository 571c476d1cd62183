"""A student together with what its pictures are made from, for commands that need more than the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.tensors import to_device
from ..students.open import FoundStudent
from ..students.shared_base import root
from ..students.student import Student
from ..students.teacher_loras import check_unquantised
from ..system.group import Processes
from ..teachers.base import Conditioning
from ..teachers.class_conditional import ClassConditionalFamily
from ..teachers.decoders import decode_each
from ..teachers.latents import vae_identity
from ..teachers.text_to_image import TextToImageFamily
from ..teachers.text_to_video import TextToVideoFamily
from ..weights.quantisation import check_precision, store_in_fp8
from .denoise import seeded_generators, seeded_noise
from .request import ImageSpec, SampleRequest, class_specs
from .sample import class_decoder
from .text import EncodedPrompts, latent_shape
from .text_specs import usual_sizes

if TYPE_CHECKING:
    from ..console import Console


@dataclass(frozen=True)
class OpenedModel:
    """A student on a device, where it was ``found``, and the specs of its pictures.

    ``condition``: specs of one size → conditioning. ``shape_of``: a spec → the shape (C, *S) of its state. ``decode``:
    states (B, C, *S) → pictures (B, 1 or 3, H, W), or videos (B, 3, F, H, W), in [-1, 1], not clipped.
    ``dtype``: what networks compute in. ``shown``: the identity of the VAE behind ``decode``, where no base has it.
    """

    student: Student
    found: FoundStudent
    specs: tuple[ImageSpec, ...]
    device: torch.device
    condition: Callable[[Sequence[ImageSpec]], Conditioning]
    shape_of: Callable[[ImageSpec], tuple[int, ...]]
    decode: Callable[[Tensor], Tensor]
    dtype: torch.dtype = torch.float32
    shown: str = ""

    @property
    def frame_rate(self) -> int | None:
        """Frames a second of its videos; None where it makes pictures."""
        family = self.student.family
        return family.frame_rate if isinstance(family, TextToVideoFamily) else None

    def noise(self, specs: Sequence[ImageSpec]) -> Tensor:
        """Initial states (B, C, *S) float32 for specs of one size, each from its seed alone, as in `piflow sample`."""
        generators = seeded_generators([spec.seed for spec in specs])
        return to_device(seeded_noise(generators, self.shape_of(specs[0])), self.device)

    def conditioning(self, specs: Sequence[ImageSpec]) -> Conditioning:
        """Conditioning for specs of one size, with ``negative_`` entries where they guide the teacher."""
        return to_device(self.condition(specs), self.device, self.student.family.read_on_host)

    def computing(self) -> AbstractContextManager:
        """The precision in which networks are to be run, as in training: states stay float32 beside a bf16 base."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def open_model(found: FoundStudent, request: SampleRequest, *, device: torch.device, console: Console) -> OpenedModel:
    """The student that was ``found``, with the specs of the pictures that `piflow sample` would make for ``request``.

    It raises the errors of `piflow sample`.
    """
    if isinstance(found.family, TextToImageFamily):
        return _text_model(found, found.family, request, device, console)
    request.refuse_text(found.named)
    return _class_model(found, request, device)


def _class_model(found: FoundStudent, request: SampleRequest, device: torch.device) -> OpenedModel:
    student = found.load()
    model, family = student.model.to(device), student.family
    assert isinstance(family, ClassConditionalFamily), "a student is told a text or a class"
    shape = family.sample_shape(model)
    return OpenedModel(
        student=student,
        found=found,
        specs=class_specs(request, family.class_count(model)),
        device=device,
        condition=lambda specs: family.condition(model, [spec.of_class for spec in specs]),
        shape_of=lambda spec: shape,
        decode=class_decoder(request, found.facts.vae, shape[0], device),
        shown=vae_identity(found.facts.vae if request.vae is None else request.vae),
    )


def _text_model(
    found: FoundStudent,
    family: TextToImageFamily,
    request: SampleRequest,
    device: torch.device,
    console: Console,
) -> OpenedModel:
    facts = found.facts
    precision = found.base_precision if request.base_precision is None else request.base_precision
    check_unquantised(facts.teacher_loras, precision)
    check_precision(precision, device)
    # The teacher's half without a text; a network that is told the scale needs none.
    guided = facts.guidance != 1 and not family.embeds_guidance
    usual = usual_sizes(found, family)
    # Which pictures are for which process is known later, so each encodes all prompts.
    encoded = EncodedPrompts.open(request, family, *found.base, precision, guided, usual, Processes(device), console)
    student = found.load(precision=precision)
    if precision == "fp8":
        store_in_fp8(root(student.model), family.kept_whole(root(student.model)))
    student.model.to(device)
    vae = family.load_vae(encoded.folder).to(device)
    return OpenedModel(
        student=student,
        found=found,
        specs=encoded.specs,
        device=device,
        condition=encoded.conditioning,
        shape_of=lambda spec: latent_shape(encoded.family, root(student.model), spec),
        decode=torch.no_grad()(lambda states: decode_each(family, vae, states)),
        dtype=encoded.dtype,
    )
