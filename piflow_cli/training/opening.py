"""A run before its first step: teacher, student, data, optimiser, and the processes that share them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..core.policies.kinds import head_class
from ..data.sources import open_data
from ..students.facts import StudentFacts
from ..students.shared_base import root
from ..students.student import Student, adapted_student, student_of
from ..system.devices import choose_device, keep_freed_memory
from ..system.processes import LONGEST, environment
from ..teachers import family_of
from ..teachers.base import ClassConditionalFamily, Conditioning, Network, TeacherFamily, guidance_of
from ..teachers.folders import teacher_folder
from ..weights.quantisation import compute_in_float32, offload, store_in_fp8
from .loop import Session
from .machine import check_machine
from .optimizer import make_optimizer
from .previews import open_gallery
from .settings import batch_plan, imitation_config

if TYPE_CHECKING:
    from ..console import Console
    from ..presets.schema import Preset


def open_session(preset: Preset, output: Path, device: str, console: Console) -> Session:
    """Load the teacher and the data, and make the student, its average and the optimiser; writes nothing."""
    chosen = choose_device(device)
    check_machine(preset, chosen)
    accelerator = _accelerator(preset, output, chosen)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    batches = batch_plan(preset, accelerator.num_processes)
    family = family_of(preset.teacher.family, preset.teacher.guidance)

    # The teacher is loaded after the encoders have left the memory; labels are asked for later still.
    def condition(labels: Sequence[int]) -> Conditioning:
        assert isinstance(family, ClassConditionalFamily), "a teacher is told a text or a class"
        return family.condition(teacher, labels)

    data = open_data(preset, family, condition, accelerator, console)
    teacher, student = open_models(preset, family)
    average = student.average()
    if preset.optimisation.gradient_checkpointing:
        root(student.model).enable_gradient_checkpointing()
    _place((teacher, student.model, average.model), preset, accelerator.device)
    slow = head_class(preset.policy.kind).slow
    optimizer = make_optimizer(student.model.named_parameters(), slow, preset.optimisation, accelerator.device, console)
    _spare_frozen(root(student.model))
    model, optimizer = accelerator.prepare(root(student.model), optimizer)
    return Session(
        preset=preset,
        accelerator=accelerator,
        batches=batches,
        config=imitation_config(preset),
        guidance=guidance_of(preset.teacher),
        data=data,
        teacher=teacher,
        student=student,
        model=model,
        average=average,
        optimizer=optimizer,
        gallery=open_gallery(preset, student, data, accelerator.device, console.say),
    )


def open_models(preset: Preset, family: TeacherFamily) -> tuple[Network, Student]:
    """The frozen teacher and its student: two models, or two roles of one base where the preset asks for adapters.

    They are on the CPU, but for a base that the GPU has quantised.
    """
    folder, adapter, facts = teacher_folder(family, preset.teacher), preset.adapter, StudentFacts.of(preset)
    if adapter is None:
        model = family.load(folder).requires_grad_(False)
        return model, student_of(model, family, facts, preset.seed)
    base = family.load_base(folder, adapter.base_precision)
    student = adapted_student(base, family, facts, adapter, preset.seed)
    whole = preset.optimisation.precision == "fp32"
    if adapter.base_precision == "fp8":
        store_in_fp8(base, family.kept_whole(base), torch.float32 if whole else None)
    if whole:
        compute_in_float32(base, family.asks_for_dtype)
    else:
        student.model.shared.cast_by_autocast()
    student.model.shared.train_adapters()
    return student.model.shared.view("teacher"), student


def _place(models: Sequence[Network], preset: Preset, device: torch.device) -> None:
    """Move the models to ``device``; an offloaded base only as far as it is no linear layer."""
    if preset.adapter is not None and preset.adapter.offload_base:
        offload(root(models[0]), device)
        return
    for model in models:
        model.to(device)


def _spare_frozen(model: nn.Module) -> None:
    """Keep processes from exchanging more than the trained weights: all have loaded the same frozen ones."""
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    buffers = [name for name, _ in model.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen + buffers)


def _accelerator(preset: Preset, output: Path, device: torch.device) -> Accelerator:
    tracker = preset.output.tracker
    chosen = {} if device.type == "cpu" or device.index is None else {"ACCELERATE_TORCH_DEVICE": str(device)}
    with environment(chosen, without="ACCELERATE_"):
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="bf16" if preset.optimisation.precision == "bf16" else "no",
            log_with=None if tracker == "none" else tracker,
            project_dir=output,
            # Gradients in the buffers of their exchange, not beside them.
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=LONGEST),
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            ],
        )
