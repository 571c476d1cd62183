"""Policies at fixed inputs, by which two students are told apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..student import Student
from ..teachers.base import ClassConditionalFamily, Conditioning
from ..teachers.text_to_image import TextToImageFamily
from ..views import root

RAWS = (1.0, 0.6)
SIDE = 8
WORDS = 8
SEED = 0


@dataclass(frozen=True)
class Inputs:
    """States ``x`` (B, C, *S) float32 at raw times ``raw`` (B,), and what goes with them; all on the student's device."""

    x: Tensor
    raw: Tensor
    conditioning: Conditioning


def fixed_inputs(student: Student) -> Inputs:
    """The same random states and conditioning for every student of one architecture: small, so that a CPU is enough.

    Latents of text-to-image students are 8 x 8, their texts of at most 8 tokens.
    """
    family, model = student.family, student.model
    generator = torch.Generator().manual_seed(SEED)
    batch = len(RAWS)
    if isinstance(family, ClassConditionalFamily):
        classes = family.class_count(model)
        conditioning = family.condition(model, [0, classes - 1])
        shape = family.sample_shape(model)
    else:
        assert isinstance(family, TextToImageFamily), "a student is told a text or a class"
        conditioning = _random_texts(family, student, batch, generator)
        shape = (family.latent_channels(model.config), SIDE, SIDE)
    x = torch.randn(batch, *shape, generator=generator)
    device = next(root(model).parameters()).device
    conditioning = {name: value.to(device) for name, value in conditioning.items()}
    return Inputs(x.to(device), torch.tensor(RAWS, dtype=torch.float64, device=device), conditioning)


def _random_texts(family: TextToImageFamily, student: Student, batch: int, generator: torch.Generator) -> Conditioning:
    dtype = next(root(student.model).parameters()).dtype
    texts = {}
    for name, longest in family.longest_conditioning(student.model).items():
        tokens = longest.ndim > 1 and longest.shape[1] == family.text_length
        shape = (batch, *([min(WORDS, longest.shape[1])] if tokens else longest.shape[1:2]), *longest.shape[2:])
        if longest.is_floating_point():
            texts[name] = torch.randn(shape, generator=generator).to(dtype)
        else:
            texts[name] = torch.ones(shape, dtype=longest.dtype)
    return texts


@torch.no_grad()
def velocities(student: Student, inputs: Inputs) -> Tensor:
    """What the student's policies say at ``inputs`` (B, C, *S), at the source and on from it: (3, B, C, *S) float32."""
    dtype = next(root(student.model).parameters()).dtype
    # States stay float32 beside a bfloat16 base, as in training.
    with torch.autocast(inputs.x.device.type, dtype=dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
        policy = student.policy(student.model, inputs.x, inputs.raw, inputs.conditioning)
    return torch.stack([policy.velocity((1 - 0.1 * step) * inputs.x, (1 - 0.3 * step) * inputs.raw) for step in range(3)]).float()


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference as a share of the largest absolute value of ``theirs``; NaN where either has one."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
