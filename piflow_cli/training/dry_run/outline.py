"""Teacher and student without their weights: the trained parameters, and the memory and disk they take."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import lcm, prod
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...data.buckets import buckets_of
from ...data.sources import LocalSamples
from ...students.facts import StudentFacts
from ...students.shared_base import root
from ...students.student import Student, adapted_student, widen
from ...students.teacher_loras import check_fit
from ...teachers.base import Network, TeacherFamily, guidance_of
from ...teachers.class_conditional import ClassConditionalFamily
from ...teachers.encoders import EMPTY, NEGATIVE_PREFIX
from ...teachers.folders import outline_folder
from ...teachers.text_to_image import TextToImageFamily
from ...weights.quantisation import LAYERS, delicate
from ..parallel import blocks_of
from ..settings import batch_plan, imitation_config
from .memory import WIDE, Bytes, Estimate, MemorySettings, WeightCounts, checkpoint_bytes, estimate
from .rehearsal import Cast, graph_of, rehearse

if TYPE_CHECKING:
    from ...presets.schema import Preset


@dataclass(frozen=True)
class Outline:
    """A student of a preset on the meta device, and its teacher.

    ``matrices``: identities of the weights that can be quantised. ``teacher``: parameters of the teacher.
    ``text_encoders``: their bytes, if known.
    """

    preset: Preset
    student: Student
    frozen: Network
    matrices: Collection[int]
    weights: WeightCounts
    teacher: int
    text_encoders: int | None


def outline_of(preset: Preset, family: TeacherFamily) -> Outline:
    """Build what ``preset`` asks for from the configuration of its teacher alone."""
    folder, facts, encoders = outline_folder(family, preset.teacher), StudentFacts.of(preset), None
    if isinstance(family, TextToImageFamily):
        family = family.sized_by(folder)
        encoders = family.text_encoder_bytes(folder, preset.data.offload_text_encoder)
    check_fit(family, folder, preset.teacher.loras)
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
            frozen = family.outline(folder).requires_grad_(False)
            student = widen(model, family, facts)
        else:
            _narrow(model, preset)
            student = adapted_student(model, family, facts, preset.adapter, preset.seed)
            if preset.optimisation.precision == "bf16":
                student.model.shared.cast_by_autocast()
            student.model.shared.train_adapters()
            frozen = student.model.shared.view("teacher")
    linear, largest = sum(matrices.values()), max(matrices.values())
    weights = WeightCounts(linear, count(teacher) - linear, count(student.model.parameters()), largest, block)
    return Outline(preset, student, frozen, matrices, weights, count(teacher), encoders)


def _narrow(model: nn.Module, preset: Preset) -> None:
    """Give the base the dtypes that it computes in: bfloat16, but what float32 arithmetic widens for good."""
    assert preset.adapter is not None, "only adapters sit on a base"
    if preset.adapter.base_precision == "fp32":
        return
    layers = {id(value) for layer in model.modules() if isinstance(layer, LAYERS) for value in layer.parameters()}
    for value in model.parameters():
        if preset.optimisation.precision == "bf16" or id(value) in layers:
            value.data = value.data.to(torch.bfloat16)


def _matrices(model: nn.Module, whole: set[str], fp8: bool) -> dict[int, int]:
    """Sizes of the linear weights that can be quantised, by identity; fp8 spares layers marked as delicate."""
    spared = delicate(model, whole) if fp8 else tuple(f"^{re.escape(path)}$" for path in whole)
    return {
        id(layer.weight): layer.weight.numel()
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not any(re.search(pattern, path) for pattern in spared)
    }


def memory_of(outline: Outline, samples: int, processes: int = 1, sharded: bool = False) -> Estimate:
    """The memory of a step over ``samples`` of the largest size at once; raises UsageError where no size is given.

    ``sharded``: ``processes`` share the weights out.
    """
    preset, cast = outline.preset, cast_of(outline, samples)
    on = preset.optimisation.gradient_checkpointing
    segment = rehearse(cast, checkpointing=on)
    # What knows no checkpointing leaves the same with it.
    knows = on or getattr(root(outline.student.model), "_supports_gradient_checkpointing", False)
    other = graph_of(cast, checkpointing=not on) if knows else segment.graph
    return estimate(outline.weights, segment, other, settings_of(preset, processes, sharded))


def peak_of(outline: Outline, processes: int = 1, sharded: bool = False) -> Bytes:
    """The peak alone of :func:`memory_of` at the preset's device batch, in half of the time."""
    preset = outline.preset
    cast = cast_of(outline, batch_plan(preset, processes).device_batch)
    segment = rehearse(cast, checkpointing=preset.optimisation.gradient_checkpointing)
    return estimate(outline.weights, segment, segment.graph, settings_of(preset, processes, sharded)).peak


def cast_of(outline: Outline, samples: int) -> Cast:
    """Who takes part in a step over ``samples`` at once."""
    preset, student = outline.preset, outline.student
    guidance, narrow = guidance_of(preset.teacher), preset.optimisation.precision == "bf16"
    with torch.device("meta"):
        told = student.family.longest_conditioning(root(student.model))
    if guidance.scale != 1 and isinstance(student.family, TextToImageFamily):
        told |= {f"{NEGATIVE_PREFIX}{name}": value for name, value in told.items()}
    shape = state_shape(preset, student)
    if isinstance(student.family, TextToImageFamily):
        told |= student.family.longest_reference(shape)
    return Cast(
        student=student,
        teacher=outline.frozen,
        guidance=guidance,
        config=imitation_config(preset),
        mixes=preset.imitation.mixing_iterations > 0,
        shape=(samples, *shape),
        conditioning=told,
        dtype=torch.bfloat16 if narrow else torch.float32,
        packed=outline.matrices if preset.adapter is not None and preset.adapter.base_precision == "fp8" else (),
    )


def settings_of(preset: Preset, processes: int, sharded: bool = False) -> MemorySettings:
    """The settings of ``preset`` that its memory depends on."""
    adapter = preset.adapter
    return MemorySettings(
        base="fp32" if adapter is None else adapter.base_precision,
        compute=preset.optimisation.precision,
        # Moments in 8 bits cannot be shared out.
        optimizer="adamw" if sharded else preset.optimisation.optimizer,
        checkpointing=preset.optimisation.gradient_checkpointing,
        offload=adapter is not None and adapter.offload_base,
        processes=processes,
        sharded=sharded,
    )


def state_shape(preset: Preset, student: Student) -> tuple[int, ...]:
    """Shape (C, *S) of the largest state that training meets."""
    family, model = student.family, root(student.model)
    if isinstance(family, ClassConditionalFamily):
        return tuple(family.sample_shape(model))
    assert isinstance(family, TextToImageFamily), "a student is told a text or a class"
    size = max(buckets_of(preset.data, family.size_multiple), key=prod)
    return family.latent_shape(model.config, size, preset.data.frames)


def trained_parts(outline: Outline) -> dict[str, int]:
    """The number of parameters of each kind that the student trains."""
    student = outline.student
    if outline.preset.adapter is None:
        return {"all weights": count(student.model.parameters())}
    family, model = student.family, root(student.model)
    heads = tuple(
        f"{start}{family.head_site(network).projection}." for start, network in family.networks(model).items()
    )
    parts = {"adapters": 0, "head": 0, "copies": 0}
    for name, value in student.model.named_parameters():
        kind = "adapters" if ".lora_" in name else "head" if name.startswith(heads) else "copies"
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
        "checkpoints kept": Bytes(_checkpoints_kept(preset) * checkpoint),
        "student": Bytes(WIDE * trained),
    }
    family, model = outline.student.family, root(outline.student.model)
    if not isinstance(family, TextToImageFamily):
        return disk
    with torch.device("meta"):
        text = sum(value.nbytes for value in family.longest_conditioning(model).values())
    disk["cache, each text, at most"] = Bytes(text)
    # Of a sample the reference, and the picture itself where noise is added to it.
    encoded, picture = int(family.shown) + int(not preset.data_free), 0
    if encoded and (preset.data.resolution is not None or preset.data.sizes):
        # The mean and the standard deviation of its latents.
        picture = 2 * WIDE * prod(state_shape(preset, outline.student))
        disk["cache, each picture"] = Bytes(picture)
    if local is not None:
        # The empty text is always among them; an encoder that sees reads it beside each picture.
        texts = 2 * local.pictures if family.sees else len({*local.texts, EMPTY})
        disk["cache, in all, at most"] = Bytes(text * texts + encoded * picture * local.pictures)
    return disk


def _checkpoints_kept(preset: Preset) -> int:
    """The number of checkpoints that lie there at the end of a run that nothing stops."""
    output = preset.output
    if not output.keep_every:
        return output.keep_checkpoints
    for_good = preset.optimisation.iterations // lcm(output.checkpoint_every, output.keep_every)
    return output.keep_checkpoints + for_good


def count(parameters: Iterable[nn.Parameter]) -> int:
    """The number of elements of some tensors."""
    return sum(parameter.numel() for parameter in parameters)
