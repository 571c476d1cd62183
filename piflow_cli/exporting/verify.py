"""Policies and whole samples at fixed inputs, which tell an export from its student."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.utils import dynamic_modules_utils, logging
from torch import Tensor, nn

from ..errors import RunError
from ..sampling.denoise import sample_by_pipeline, sample_student
from ..students.shared_base import root
from ..students.student import Student
from ..teachers.base import Conditioning, Network
from ..teachers.class_conditional import ClassConditionalFamily
from ..teachers.text_to_image import TextToImageFamily
from ..wording import few
from .request import ExportFormat, ExportRequest
from .standalone.class_conditional import ClassConditionalPipeline
from .weights import Weights, base_dtype

RAWS = (1.0, 0.6)
SIDE = 8
WORDS = 8
SEED = 0
# Three times the rounding of samples of tiny random networks: a timestep in bfloat16 is off by a thousandth.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.2}


@dataclass(frozen=True)
class Inputs:
    """States ``x`` (B, C, *S) float32 at raw times ``raw`` (B,) with their conditioning, on the student's device."""

    x: Tensor
    raw: Tensor
    conditioning: Conditioning


class ComparedFormat(ExportFormat):
    """A format whose samples are compared in the dtype that the weights are written in."""

    dtype: torch.dtype
    """Known when they are written."""

    def tolerance(self, request: ExportRequest) -> float:
        return TOLERANCES[self.dtype]


SampleFunction = Callable[[Inputs], Tensor]
"""Noise in float32, and conditioning in the dtype of the network → samples (B, C, *S)."""


def difference(student: Student, dtype: torch.dtype, sampler: SampleFunction) -> float:
    """Largest distance of samples of ``sampler``, told in ``dtype``, from the student's, relative to their norm.

    NaN stays NaN. It is of the norm and not of single values: in 16 bits a position between two components may go
    either way.
    """
    inputs = fixed_inputs(student)
    own = _told_in(inputs, base_dtype(student))
    with computing_in(base_dtype(student), own.x.device):
        ours = sample_student(student, own.x, own.conditioning).flatten(1)
    theirs = sampler(_told_in(inputs, dtype)).float().flatten(1)
    return ((theirs - ours).norm(dim=1) / ours.norm(dim=1)).max().item()


def computing_in(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """As a network of ``dtype`` is trained: its states and times stay in float32, and matrices multiply in its own."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def by_pipeline(student: Student, transformer: nn.Module, scheduler: Any) -> SampleFunction:
    """Samples of the student's pipeline around ``transformer`` and ``scheduler``, with the trained evaluations."""
    family, steps = student.family, student.facts.nfe
    if isinstance(family, TextToImageFamily):
        pipeline = family.pipeline(transformer, scheduler)
        pipeline.set_progress_bar_config(disable=True)
        return lambda inputs: sample_by_pipeline(family, pipeline, inputs.x, inputs.conditioning, steps)
    assert isinstance(family, ClassConditionalFamily), "a student is told a text or a class"
    pipeline: Any = ClassConditionalPipeline(transformer, scheduler, None, steps, family.time_unit)
    pipeline.set_progress_bar_config(disable=True)
    return lambda inputs: pipeline(inputs.conditioning["class_labels"], latents=inputs.x, output_type="latent").images


def check_weights(weights: Weights, model: Network) -> None:
    """Raise RunError where a weight of ``model``, read back, differs in a bit from the one to be written."""
    read = model.state_dict()
    wrong = sorted(weights.keys() ^ read.keys())
    wrong += [
        name
        for name in weights.keys() & read.keys()
        if not torch.equal(weights[name].tensor(read[name].dtype), read[name].cpu())
    ]
    if wrong:
        raise RunError(
            f"what was written is not what came back: {few(wrong)} {'differs' if len(wrong) == 1 else 'differ'}",
            "check the disk, and export again",
        )


@contextmanager
def reading_back() -> Generator[None]:
    """diffusers without progress bars and advice, and with a place of its own for code that it is trusted with.

    It copies such code to one place for all, where exports that run side by side would overwrite each other's.
    """
    level, bars, place = (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        dynamic_modules_utils.HF_MODULES_CACHE,
    )
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as own:
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated")
            dynamic_modules_utils.HF_MODULES_CACHE = own
            yield
    finally:
        dynamic_modules_utils.HF_MODULES_CACHE = place
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        sys.path[:] = [entry for entry in sys.path if entry != own]


def _told_in(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    conditioning = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.conditioning.items()
    }
    return replace(inputs, conditioning=conditioning)


def fixed_inputs(student: Student) -> Inputs:
    """The same random states and conditioning for every student of one architecture: small, so that a CPU is enough.

    Latents of text-to-image students are 8 x 8, those of videos two of them, and their texts of at most 8 tokens.
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
        frames = None if family.frame_step is None else 1 + family.frame_step
        side = SIDE * family.vae_factor
        shape = family.latent_shape(model.config, (side, side), frames)
        for name, value in family.longest_reference(shape).items():
            conditioning[name] = torch.randn(batch, *value.shape[1:], generator=generator).to(root(model).dtype)
    x = torch.randn(batch, *shape, generator=generator)
    device = next(root(model).parameters()).device
    conditioning = {name: value.to(device) for name, value in conditioning.items()}
    return Inputs(x.to(device), torch.tensor(RAWS, dtype=torch.float64, device=device), conditioning)


def _random_texts(family: TextToImageFamily, student: Student, batch: int, generator: torch.Generator) -> Conditioning:
    dtype = root(student.model).dtype
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
    """Velocities (3, B, C, *S) float32 of the student's policies at ``inputs``, at the source and below it."""
    dtype = root(student.model).dtype
    # States stay float32 beside a bfloat16 base, as in training.
    with torch.autocast(inputs.x.device.type, dtype=dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
        policy = student.policy(student.model, inputs.x, inputs.raw, inputs.conditioning)
    return torch.stack(
        [policy.velocity((1 - 0.1 * step) * inputs.x, (1 - 0.3 * step) * inputs.raw) for step in range(3)]
    ).float()


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference over the largest absolute value of ``theirs``; NaN where either has one."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
