"""Teacher and student without their weights: the trained parameters, and the memory and disk they take."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...data.buckets import buckets_of
from ...data.collect import EMPTY
from ...data.sources import LocalSamples
from ...students.facts import StudentFacts
from ...students.shared_base import root
from ...students.student import Student, adapted_student, widen
from ...teachers.base import ClassConditionalFamily, TeacherFamily
from ...teachers.folders import outline_folder
from ...teachers.text_to_image import TextToImageFamily
from ...weights.quantisation import delicate
from .memory import WIDE, Bytes, Estimate, MemorySettings, WeightCounts, checkpoint_bytes, estimate
from .tracing import blocks_of, trace

if TYPE_CHECKING:
    from ...presets.schema import Preset


@dataclass(frozen=True)
class Outline:
    """A student of a preset on the meta device.

    ``teacher``: parameters of its teacher. ``text_encoders``: their bytes, if known.
    """

    preset: Preset
    student: Student
    weights: WeightCounts
    teacher: int
    text_encoders: int | None


def outline_of(preset: Preset, family: TeacherFamily) -> Outline:
    """Build what ``preset`` asks for from the configuration of its teacher alone."""
    folder, facts = outline_folder(family, preset.teacher), StudentFacts.of(preset)
    encoders = (
        family.text_encoder_bytes(folder, preset.data.offload_text_encoder)
        if isinstance(family, TextToImageFamily)
        else None
    )
    with torch.device("meta"):
        model = family.outline(folder)
        teacher = list(model.parameters())
        fp8 = preset.adapter is not None and preset.adapter.base_precision == "fp8"
        matrices = _matrices(model, family.kept_whole(model), fp8)
        block = max(
            (count(value for value in found.parameters() if id(value) in matrices) for found in blocks_of(model)),
            default=0,
        )
        if preset.adapter is None:
            student = widen(model, family, facts)
        else:
            if preset.adapter.base_precision != "fp32":
                for value in teacher:
                    value.data = value.data.to(torch.bfloat16)
            student = adapted_student(model, family, facts, preset.adapter, preset.seed)
            student.model.shared.train_adapters()
    linear, largest = sum(matrices.values()), max(matrices.values())
    weights = WeightCounts(linear, count(teacher) - linear, count(student.model.parameters()), largest, block)
    return Outline(preset, student, weights, count(teacher), encoders)


def _matrices(model: nn.Module, whole: set[str], fp8: bool) -> dict[int, int]:
    """Sizes of the linear weights that can be quantised, by identity; fp8 spares layers marked as delicate."""
    spared = delicate(type(model), whole) if fp8 else tuple(f"^{re.escape(path)}$" for path in whole)
    return {
        id(layer.weight): layer.weight.numel()
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not any(re.search(pattern, path) for pattern in spared)
    }


def memory_of(outline: Outline, samples: int) -> Estimate:
    """The memory of a step over ``samples`` of the largest size at once; raises UsageError where no size is given."""
    preset, student = outline.preset, outline.student
    shape = state_shape(preset, student)
    narrow = preset.optimisation.precision == "bf16"
    with torch.device("meta"):
        x, sigma = torch.empty(1, *shape), torch.ones(1)
        conditioning = student.family.longest_conditioning(root(student.model))
    traced = trace(
        root(student.model),
        lambda: student.family.call(student.model, x, sigma, conditioning),
        prod(shape),
        torch.bfloat16 if narrow else torch.float32,
    )
    return estimate(outline.weights, traced, settings_of(preset, samples))


def settings_of(preset: Preset, samples: int) -> MemorySettings:
    """The settings of ``preset`` that its memory depends on."""
    adapter, imitation = preset.adapter, preset.imitation
    return MemorySettings(
        base="fp32" if adapter is None else adapter.base_precision,
        compute=preset.optimisation.precision,
        optimizer=preset.optimisation.optimizer,
        checkpointing=preset.optimisation.gradient_checkpointing,
        offload=adapter is not None and adapter.offload_base,
        samples=samples,
        states=imitation.states,
        query=min(imitation.states, imitation.states_per_query) if imitation.states_per_query else imitation.states,
    )


def state_shape(preset: Preset, student: Student) -> tuple[int, ...]:
    """Shape (C, *S) of the largest state that training meets."""
    family, model = student.family, root(student.model)
    if isinstance(family, ClassConditionalFamily):
        return tuple(family.sample_shape(model))
    assert isinstance(family, TextToImageFamily), "a student is told a text or a class"
    width, height = max(buckets_of(preset.data, family.size_multiple), key=prod)
    return family.latent_channels(model.config), height // family.vae_factor, width // family.vae_factor


def trained_parts(outline: Outline) -> dict[str, int]:
    """The number of parameters of each kind that the student trains."""
    student = outline.student
    if outline.preset.adapter is None:
        return {"all weights": count(student.model.parameters())}
    head = student.family.head_site(root(student.model)).projection
    parts = {"adapters": 0, "head": 0, "copies": 0}
    for name, value in student.model.named_parameters():
        kind = "adapters" if ".lora_" in name else "head" if name.startswith(f"{head}.") else "copies"
        parts[kind] += value.numel()
    return parts


def disk_of(outline: Outline, local: LocalSamples | None) -> dict[str, Bytes]:
    """Bytes that a run leaves on the disk and in the cache.

    Of the cache it gives one entry, and all of them where ``local`` counts the samples.
    """
    preset, trained = outline.preset, outline.weights.trained
    checkpoint = checkpoint_bytes(trained, preset.optimisation.optimizer)
    disk = {
        "checkpoint": checkpoint,
        "checkpoints kept": Bytes(preset.output.keep_checkpoints * checkpoint),
        "student": Bytes(WIDE * trained),
    }
    family, model = outline.student.family, root(outline.student.model)
    if not isinstance(family, TextToImageFamily):
        return disk
    with torch.device("meta"):
        text = sum(value.nbytes for value in family.longest_conditioning(model).values())
    disk["cache, each text, at most"] = Bytes(text)
    picture = 0
    if not preset.data_free and (preset.data.resolution is not None or preset.data.sizes):
        # The mean and the standard deviation of its latents.
        picture = 2 * WIDE * prod(state_shape(preset, outline.student))
        disk["cache, each picture"] = Bytes(picture)
    if local is not None:
        # The empty text is always among them.
        disk["cache, in all, at most"] = Bytes(text * len({*local.texts, EMPTY}) + picture * local.pictures)
    return disk


def count(parameters: Iterable[nn.Parameter]) -> int:
    """The number of elements of some tensors."""
    return sum(parameter.numel() for parameter in parameters)
