"""`piflow distill` from a resolved preset to a finished student."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..adapters import save_adapter
from ..console import format_pairs
from ..core.validation import PolicyError
from ..devices import choose_device, keep_freed_memory
from ..errors import Interrupted, RunError, UsageError
from ..launching import launched_processes
from ..quantisation import check_offloading, check_precision, offload, store_in_fp8
from ..runs import RunFolder
from ..student import Model, Student, StudentFacts, adapted_student, student_of
from ..teachers import family_of
from ..teachers.base import TeacherFamily, guidance_of
from ..teachers.locate import teacher_folder
from ..views import root
from .checkpoints import checkpoints, load_checkpoint, save_checkpoint
from .loop import Session, take_pending, train_step
from .metrics import Metrics, draw_loss
from .optimizer import make_optimizer
from .pictures import open_gallery, save_comparison, save_preview
from .plan import batch_plan, describe, imitation_config
from .signals import StopRequest
from .sources import open_data, require_source

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..console import Console
    from ..preset_schema import Preset

REPORT_EVERY = 10


def distill(preset: Preset, output: Path, device: str, resume: bool, console: Console) -> dict:
    """Train the student of ``preset`` into the folder ``output``; goes on from its last checkpoint if ``resume``.

    Returns what was made. Raises UsageError before anything is written where the folder, data or device do not fit,
    RunError where the loss is not finite or a checkpoint is damaged, Interrupted after Ctrl-C.
    """
    started = time.perf_counter()
    run = RunFolder(output)
    if resume:
        run.check(preset)
    require_source(preset)
    console.say(format_pairs(describe(preset, output, device, launched_processes())))
    session = open_session(preset, output, device, console)
    fingerprint = session.data.fingerprint
    if resume:
        run.check_data(fingerprint)
    main = session.accelerator.is_main_process
    if main and not resume and (aside := run.set_aside()) is not None:
        console.say(f"the earlier run is now {aside}")
    session.accelerator.wait_for_everyone()
    found = checkpoints(run.checkpoints)
    if found:
        _restore(session, found[-1])
        console.say(f"resuming from {found[-1]}")
    if main:
        run.write_settings(preset)
        run.write_data(fingerprint)
    metrics = Metrics(run.metrics, session.iteration) if main else None
    with StopRequest() as stop:
        _train(session, run, metrics, console, stop)
    session.accelerator.end_training()
    return _finish(session, run, metrics, started) if metrics is not None else {}


def open_session(preset: Preset, output: Path, device: str, console: Console) -> Session:
    """Load the teacher and the data, and make the student, its average and the optimiser; writes nothing."""
    accelerator = _accelerator(preset, output, choose_device(device))
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    if preset.adapter is not None:
        check_precision(preset.adapter.base_precision, accelerator.device)
    if preset.adapter is not None and preset.adapter.offload_base:
        check_offloading("base", accelerator.device)
    if preset.data.offload_text_encoder:
        check_offloading("text encoder", accelerator.device)
    batches = batch_plan(preset, accelerator.num_processes)
    family = family_of(preset.teacher.family, preset.teacher.guidance)
    # The teacher is loaded after the encoders have left the memory; labels are asked for later still.
    data = open_data(preset, family, lambda labels: family.condition(teacher, labels), accelerator, console)
    teacher, student = open_models(preset, family)
    average = student.average()
    if preset.optimisation.gradient_checkpointing:
        root(student.model).enable_gradient_checkpointing()
    _place((teacher, student.model, average.model), preset, accelerator.device)
    optimizer = make_optimizer(student.model.named_parameters(), preset.optimisation, accelerator.device, console)
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


def open_models(preset: Preset, family: TeacherFamily) -> tuple[Model, Student]:
    """The frozen teacher and its student: two models, or two views of one where the preset asks for adapters.

    They are on the CPU, but for a base that the GPU has quantised.
    """
    folder, adapter, facts = teacher_folder(family, preset.teacher), preset.adapter, StudentFacts.of(preset)
    if adapter is None:
        model = family.load(folder).requires_grad_(False)
        return model, student_of(model, family, facts, preset.seed)
    base = family.load_base(folder, adapter.base_precision)
    student = adapted_student(base, family, facts, adapter, preset.seed)
    if adapter.base_precision == "fp8":
        store_in_fp8(base, family.kept_whole(base))
    student.model.shared.train_adapters()
    return student.model.shared.view("teacher"), student


def _place(models: Sequence[Model], preset: Preset, device: torch.device) -> None:
    """Move the models to ``device``; an offloaded base only as far as it is no linear layer."""
    if preset.adapter is not None and preset.adapter.offload_base:
        offload(root(models[0]), device)
        return
    for model in models:
        model.to(device)


def _spare_frozen(model: nn.Module) -> None:
    """Let processes exchange nothing but what is trained: every one of them has loaded the same frozen weights."""
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    buffers = [name for name, _ in model.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen + buffers)


def _accelerator(preset: Preset, output: Path, device: torch.device) -> Accelerator:
    tracker = preset.output.tracker
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise UsageError(f"the tracker {tracker} is not installed", 'pip install "piflow[trackers]", or --set output.tracker=none')
    if device.type != "cpu" and device.index is not None:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if preset.optimisation.precision == "bf16" else "no",
        log_with=None if tracker == "none" else tracker,
        project_dir=output,
    )


def _restore(session: Session, path: Path) -> None:
    state = session.state
    load_checkpoint(path, state)
    session.iteration = state.iteration


def _train(session: Session, run: RunFolder, metrics: Metrics | None, console: Console, stop: StopRequest) -> None:
    output, total = session.preset.output, session.preset.optimisation.iterations
    if output.tracker != "none":
        session.accelerator.init_trackers("piflow", {"preset": session.preset.name, "seed": session.preset.seed})
    with console.progress(total, min(session.iteration, total), "distilling") as bar:
        while session.iteration < total:
            try:
                train_step(session)
            except PolicyError as error:
                raise _diverged(f"the policy of iteration {session.iteration + 1} is impossible ({error})", run) from error
            done = session.iteration
            stopped = _asked_to_stop(session, stop)
            ends = done == total or stopped
            if done % REPORT_EVERY == 0 or done % output.checkpoint_every == 0 or ends:
                _report(session, run, metrics, bar)
            if done % output.checkpoint_every == 0 or ends:
                _save(session, run)
            if output.preview_every and done % output.preview_every == 0 and metrics is not None and session.gallery is not None:
                with session.accelerator.autocast():
                    save_preview(_current(session), session.gallery, run.previews / f"{done:07d}.png")
            if stopped and done < total:
                raise Interrupted(f"stopped at iteration {done} of {total}; everything is saved", "run the same command again to go on")


def _asked_to_stop(session: Session, stop: StopRequest) -> bool:
    """Whether any process was: all must leave at the same step, or the others would wait for it for ever."""
    accelerator = session.accelerator
    if accelerator.num_processes == 1:
        return stop.asked
    if stop.asked:
        accelerator.set_trigger()
    return accelerator.check_trigger()


def _report(session: Session, run: RunFolder, metrics: Metrics | None, bar: tqdm) -> None:
    """Read the losses, stop where one is not finite, and show and write the rest."""
    for row in take_pending(session):
        for what in ("loss", "gradient_norm"):
            if not math.isfinite(row[what]):
                raise _diverged(f"the {what.replace('_', ' ')} of iteration {row['iteration']} is not finite", run)
        session.accelerator.log({key: row[key] for key in row if key != "iteration"}, step=row["iteration"])
        if metrics is not None:
            metrics.add(row)
        bar.set_postfix(loss=f"{row['loss']:.4f}", teacher_ratio=f"{row['teacher_ratio']:.2f}", refresh=False)
        bar.update()


def _diverged(what: str, run: RunFolder) -> RunError:
    found = checkpoints(run.checkpoints)
    last = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
    return RunError(
        f"{what}; {last}", "train more gently in another folder: --output DIR with a lower --learning-rate RATE"
    )


def _current(session: Session) -> Student:
    """The averaged student as it is now: what is previewed is what is saved."""
    return session.average.at(session.iteration)


def _save(session: Session, run: RunFolder) -> None:
    if session.accelerator.is_main_process:
        save_checkpoint(run.checkpoints, session.state, session.preset.output.keep_checkpoints)
        save_adapter(_current(session), run.adapter)
    session.accelerator.wait_for_everyone()


def _finish(session: Session, run: RunFolder, metrics: Metrics, started: float) -> dict:
    """The pictures of the end, and the facts of the run."""
    samples, curve = run.path / "samples.png", run.path / "loss.png"
    if session.gallery is not None:
        with session.accelerator.autocast():
            save_comparison(_current(session), session.teacher, session.guidance, session.gallery, samples)
    draw_loss(metrics.rows, curve)
    return {
        "output": run.path,
        "adapter": run.adapter,
        "samples": None if session.gallery is None else samples,
        "loss_curve": curve,
        "iterations": session.iteration,
        "loss": metrics.rows[-1]["loss"] if metrics.rows else None,
        "seconds": round(time.perf_counter() - started, 1),
    }
