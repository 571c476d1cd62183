"""Whole samples at fixed inputs, by which exports that bring their own pipeline or scheduler are verified."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from diffusers.utils import dynamic_modules_utils, logging
from torch import Tensor, nn

from ..errors import RunError
from ..generation import sample_by_pipeline, sample_student
from ..student import Student
from ..teachers.text_to_image import TextToImageFamily
from .probe import Inputs, fixed_inputs
from .standalone.class_conditional import ClassConditionalPipeline
from .weights import Weights, base_dtype

# What rounding does to samples of tiny random networks, times three: a timestep in bfloat16 is off by a thousandth.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.2}

Sampler = Callable[[Inputs], Tensor]
"""Noise in float32, and conditioning in the dtype of the network → samples (B, C, *S)."""


def difference(student: Student, dtype: torch.dtype, sampler: Sampler) -> float:
    """How far samples of ``sampler``, told in ``dtype``, are from the student's own: of the norm, where that is most; NaN for NaN.

    Of the norm and not of single values: in 16 bits a position between two components may go either way.
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


def by_pipeline(student: Student, transformer: nn.Module, scheduler: Any) -> Sampler:
    """Samples of the student's pipeline around ``transformer`` and ``scheduler``, by as many evaluations as it was trained for."""
    family, steps = student.family, student.facts.nfe
    if isinstance(family, TextToImageFamily):
        pipeline = family.pipeline(transformer, scheduler)
        pipeline.set_progress_bar_config(disable=True)
        return lambda inputs: sample_by_pipeline(family, pipeline, inputs.x, inputs.conditioning, steps)
    pipeline = ClassConditionalPipeline(transformer, scheduler, None, steps)
    pipeline.set_progress_bar_config(disable=True)
    return lambda inputs: pipeline(inputs.conditioning["class_labels"], latents=inputs.x, output_type="latent").images


def check_weights(weights: Weights, model: nn.Module) -> None:
    """Raise RunError where a weight of ``model``, read back, is another than was to be written, to the last bit."""
    read = model.state_dict()
    wrong = sorted(weights.keys() ^ read.keys())
    wrong += [name for name in weights.keys() & read.keys() if not torch.equal(weights[name].tensor(read[name].dtype), read[name].cpu())]
    if wrong:
        raise RunError(f"what was written is not what came back: {wrong[0]} differs, and {len(wrong) - 1} more do", "check the disk, and export again")


@contextmanager
def reading_back() -> Iterator[None]:
    """diffusers without progress bars and advice, and with a place of its own for code that it is trusted with.

    It copies such code to one place for all, where exports that run side by side would overwrite each other's.
    """
    level, bars, place = logging.get_verbosity(), logging.is_progress_bar_enabled(), dynamic_modules_utils.HF_MODULES_CACHE
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
    conditioning = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.conditioning.items()}
    return replace(inputs, conditioning=conditioning)
