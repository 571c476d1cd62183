"""A run before its first step: teacher, student, data, optimiser, and the processes that share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..core.policies.kinds import head_class
from ..data.sources import open_data
from ..presets.choices import NO_TRACKER
from ..students.facts import StudentFacts
from ..students.shared_base import root
from ..students.student import Student, adapted_student, student_of
from ..students.teacher_loras import TeacherLora, fuse, teacher_loras
from ..system.devices import choose_device, keep_freed_memory
from ..system.processes import LONGEST, environment
from ..system.trackers import TRACKERS
from ..teachers import family_of
from ..teachers.base import Conditioning, Network, TeacherFamily, guidance_of
from ..teachers.class_conditional import ClassConditionalFamily
from ..teachers.folders import teacher_folder
from ..weights.quantisation import compute_in_float32, offload, store_in_fp8, tell_in_float32
from .loop import Session
from .machine import check_machine
from .optimizer import make_optimizer
from .parallel import exchange_all, shard
from .previews import open_gallery
from .settings import batch_plan, imitation_config

if TYPE_CHECKING:
    from ..console import Console
    from ..presets.schema import Preset


def open_session(preset: Preset, output: Path, device: str, console: Console, sharded: bool = False) -> Session:
    """Load the teacher and the data, and make the student, its average and the optimiser; writes nothing.

    ``sharded``: processes share the weights out.
    """
    chosen = choose_device(device)
    check_machine(preset, chosen)
    accelerator = _accelerator(preset, output, chosen)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    batches = batch_plan(preset, accelerator.num_processes)
    family = family_of(preset.teacher.family, preset.teacher.guidance)

    loras = teacher_loras(preset.teacher.loras)

    # The teacher is loaded after the encoders have left the memory; labels are asked for later still.
    def condition(labels: Sequence[int]) -> Conditioning:
        assert isinstance(family, ClassConditionalFamily), "a teacher is told a text or a class"
        return family.condition(teacher, labels)

    data = open_data(preset, family, condition, accelerator, console)
    teacher, student = open_models(preset, family, loras, console.warn)
    average = student.average()
    if preset.optimisation.gradient_checkpointing:
        root(student.model).enable_gradient_checkpointing()
    models = (teacher, student.model, average.model)
    share = _share_out if sharded else _replicate
    model, optimizer = share(models, preset, accelerator, console)
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
        sharded=sharded,
    )


def open_models(
    preset: Preset,
    family: TeacherFamily,
    loras: tuple[TeacherLora, ...] = (),
    warn: Callable[[str], None] = lambda line: None,
) -> tuple[Network, Student]:
    """The frozen teacher and its student: two models, or two roles of one base where the preset asks for adapters.

    They are on the CPU, but for a base that the GPU has quantised. ``loras`` are fused into the base; ``warn`` is told
    what is left out of them.
    """
    folder, adapter, facts = teacher_folder(family, preset.teacher), preset.adapter, StudentFacts.of(preset)
    if adapter is None:
        model = family.load(folder).requires_grad_(False)
        if preset.optimisation.precision == "fp32":
            tell_in_float32(model)  # and so is the student, which is a copy
        return model, student_of(model, family, facts, preset.seed)
    base = family.load_base(folder, adapter.base_precision)
    fuse(base, family, folder, loras, warn)
    facts = replace(facts, teacher_loras=tuple(lora.told for lora in loras))
    student = adapted_student(base, family, facts, adapter, preset.seed)
    student.loras = loras
    whole = preset.optimisation.precision == "fp32"
    if adapter.base_precision == "fp8":
        store_in_fp8(base, family.kept_whole(base), torch.float32 if whole else None)
    if whole:
        compute_in_float32(base, family.asks_for_dtype)
    else:
        student.model.shared.cast_by_autocast()
    student.model.shared.train_adapters()
    return student.model.shared.view("teacher"), student


def _replicate(
    models: tuple[Network, Network, Network], preset: Preset, accelerator: Accelerator, console: Console
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """All weights on each device, and gradients exchanged as a whole: the student's forward pass and its optimiser."""
    _place(models, preset, accelerator.device)
    _, student, _ = models
    optimizer = _optimizer(student, preset, accelerator.device, console)
    _spare_frozen(root(student))
    if accelerator.num_processes > 1:
        exchange_all(root(student), student.parameters())
    return accelerator.prepare(root(student), optimizer)


def _share_out(
    models: tuple[Network, Network, Network], preset: Preset, accelerator: Accelerator, console: Console
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A part of all weights on each device (FSDP2): the student's forward pass and the optimiser of the parts."""
    roots = {id(root(model)): root(model) for model in models}
    _, student, _ = models
    # In evaluation accelerate leaves the processes out, and autocast in.
    model = accelerator.prepare_model(root(student), device_placement=False, evaluation_mode=True)
    for whole_model in roots.values():
        shard(whole_model, accelerator.device)
    return model, _optimizer(student, preset, accelerator.device, console, sharded=True)


def _optimizer(
    student: Network, preset: Preset, device: torch.device, console: Console, sharded: bool = False
) -> torch.optim.Optimizer:
    slow = head_class(preset.policy.kind).slow
    return make_optimizer(student.named_parameters(), slow, preset.optimisation, device, console, sharded)


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
    name = preset.output.tracker
    chosen = {} if device.type == "cpu" or device.index is None else {"ACCELERATE_TORCH_DEVICE": str(device)}
    with environment(chosen, without="ACCELERATE_"):
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="bf16" if preset.optimisation.precision == "bf16" else "no",
            log_with=None if name == NO_TRACKER else TRACKERS[name].module,
            project_dir=output,
            # Gradients in the buffers of their exchange, not beside them.
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=LONGEST),
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            ],
        )
