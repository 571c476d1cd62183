"""`piflow distill` from a resolved preset to a finished student."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..console import format_pairs
from ..core.validation import PolicyError
from ..data.sources import require_source
from ..errors import Preempted, RunError
from ..progress import keep_alive
from ..ranks import is_first, launched_processes
from ..students.run_checkpoints import checkpoints
from ..students.runs import RunFolder
from ..students.student import Student
from ..system.devices import choose_device
from ..system.files import check_writable
from ..system.folders import with_a_name
from ..system.locking import FolderLock
from ..system.preemption import PREEMPTION
from ..system.processes import accelerate_anew, environment
from .beginning import begin
from .checkpoints import GENTLER
from .dry_run.plan import describe
from .dry_run.room import NO_ROOM
from .dry_run.sharing import choose_parallel
from .forking import source_of
from .loop import LONGEST_STREAK, Session, train_step
from .metrics import Metrics, draw_loss
from .opening import open_session
from .parallel import AUTO
from .previews import Gallery, save_comparison, save_preview
from .saved import save
from .showing import Showing
from .signals import GO_ON, Preemptible, StopRequest, preemptible, stopped_by
from .spending import Spending, now, open_spending, refuse_spent
from .tracking import track_picture, tracked
from .waiting import limited_waiting, step_timeout
from .watching import Watch

if TYPE_CHECKING:
    from ..console import Console
    from ..presets.schema import Preset

SAMPLES = "samples.png"


def distill(
    preset: Preset,
    output: Path,
    device: str,
    resume: bool,
    console: Console,
    parallel: str = AUTO,
    fork: Path | None = None,
    began: float | None = None,
) -> dict:
    """Train the student of ``preset`` into the folder ``output``; goes on from its last checkpoint if ``resume``.

    ``parallel``: how processes share the weights, ``auto``, ``ddp`` or ``fsdp2``; a run may go on in another way.
    ``fork``: the run whose student and average this one begins with, until it has a checkpoint of its own.
    ``began``: when the time of a budget began, by :func:`.spending.now`; default: now.

    Returns what was made. Raises UsageError before anything is written where the folder, data or device do not fit or
    another run is at work in the folder, RunError where ten gradients in a row are not finite or no checkpoint is
    whole, Interrupted after Ctrl-C or SIGHUP, and its kind Preempted after SIGTERM or SIGUSR1. Variables of
    accelerate's own have no effect: the preset says everything that they could.
    """
    output = with_a_name(output)
    check_writable(output)
    # One process writes for all of a run, and one lock is enough for all.
    with (
        environment(without="ACCELERATE_"),
        accelerate_anew(),
        FolderLock(output) if is_first() else nullcontext() as lock,
        preemptible() as preemption,
    ):
        moment = now() if began is None else began
        return _distill(preset, RunFolder(output), device, resume, lock, console, parallel, fork, moment, preemption)


def _distill(
    preset: Preset,
    run: RunFolder,
    device: str,
    resume: bool,
    lock: FolderLock | None,
    console: Console,
    parallel: str,
    fork: Path | None,
    began: float,
    preemption: Preemptible,
) -> dict:
    started, planned = time.perf_counter(), None
    if resume:
        run.check(preset)
    # One process waits for nobody, and is told of a wrong value before several are.
    step_timeout()
    source = source_of(run, preset, fork, resume, console)
    if resume:
        planned = run.planned(preset)
        preset = preset if planned is None else planned
    require_source(preset)
    way = choose_parallel(parallel, preset, launched_processes(), choose_device(device))
    plan = describe(preset, run.path, device, launched_processes(), parallel)
    console.say(format_pairs(plan))
    if plan["verdict"].startswith(NO_ROOM):
        console.warn(f"this run {plan['verdict']}")
    budget = preset.optimisation.budget
    if budget is not None:
        refuse_spent(budget, launched_processes(), began)
    session = open_session(preset, run.path, device, console, way.sharded)
    spending = None if budget is None else open_spending(session, run, planned is not None, began, console)
    metrics = begin(session, run, source, resume, lock, console, spending)
    with tracked(session, run, console):
        with StopRequest() as stop, limited_waiting(session):
            _train(session, run, metrics, console, stop, spending)
            preemption.state = (
                f"all {session.iteration} iterations are done and saved, but the last pictures are not drawn"
            )
            # Asked during the last step or its save: the pictures may take longer than the system waits.
            if _agreed(session, stop)[0] in PREEMPTION:
                raise Preempted(preemption.state, GO_ON)
        shown = _compare(session, run.path / SAMPLES, metrics is not None, console)
    if spending is not None and metrics is not None:
        spending.write()
    # Whoever left first would close connections that others may still read.
    session.accelerator.wait_for_everyone()
    session.accelerator.end_training()
    return _finish(session, run, metrics, started, shown) if metrics is not None else {}


def _train(
    session: Session,
    run: RunFolder,
    metrics: Metrics | None,
    console: Console,
    stop: StopRequest,
    spending: Spending | None,
) -> None:
    output, total = session.preset.output, session.preset.optimisation.iterations
    if spending is not None:
        spending.start()
    with (
        console.progress(total, min(session.iteration, total), "distilling") as bar,
        Watch(stop.SIGNALS, stop.FORCING, console.say, partial(keep_alive, bar)),
    ):
        showing = Showing(session, metrics, bar, console)
        session.on_round = showing.round
        while session.iteration < total:
            train_step(session)
            showing.step()
            done = session.iteration
            if spending is not None and spending.look(console):
                total = bar.total = session.preset.optimisation.iterations
                if metrics is not None:
                    spending.write()
                    run.write_settings(session.preset)
            stopped, due = _agreed(session, stop, showing.due)
            ends = done == total or stopped > 0
            diverged = session.streak == LONGEST_STREAK
            previews = output.preview_every > 0 and done % output.preview_every == 0
            # Before a preview too: trackers take nothing of earlier iterations after one.
            if due or done % output.checkpoint_every == 0 or previews or ends or diverged:
                showing.report()
            if diverged:
                raise _diverged(
                    f"{LONGEST_STREAK} steps in a row had gradients that are not finite, the last is iteration {done}",
                    run,
                )
            # Amid such steps the weights may be diverging, and would push out a checkpoint of better ones.
            if (done % output.checkpoint_every == 0 and session.streak == 0) or ends:
                began = now()
                save(session, run, metrics)
                if spending is not None:
                    spending.saved(now() - began)
                    if metrics is not None:
                        spending.write()
            if previews:
                _preview(session, run.previews / f"{done:07d}.png", metrics is not None, console)
            if stopped and done < total:
                raise stopped_by(stopped, done, total)


def _agreed(session: Session, stop: StopRequest, due: bool = False) -> tuple[int, bool]:
    """The signal by which any process was asked to stop, 0 for none, and whether losses are ``due`` on the first.

    All must leave at the same step, and for the same reason, or the others would wait for it for ever; and all take
    part in a report.
    """
    own = stop.number if stop.asked else 0
    if session.accelerator.num_processes == 1:
        return own, due
    asked = session.accelerator.gather(torch.tensor([[own, int(due)]], device=session.accelerator.device)).tolist()
    # Ctrl-C, of several: a launcher that has got it sends SIGTERM too.
    return min((number for number, _ in asked if number), default=0), bool(asked[0][1])


def _preview(session: Session, path: Path, first: bool, console: Console) -> bool:
    """Save a preview of the student; whether it is there."""
    return _drawn(lambda gallery, place: save_preview(_current(session), gallery, place), session, path, first, console)


def _compare(session: Session, path: Path, first: bool, console: Console) -> bool:
    """Save teacher and student beside each other; whether the picture is there."""

    def draw(gallery: Gallery, place: Path | None) -> None:
        save_comparison(_current(session), session.teacher, session.guidance, gallery, place)

    return _drawn(draw, session, path, first, console)


def _drawn(
    draw: Callable[[Gallery, Path | None], None], session: Session, path: Path, first: bool, console: Console
) -> bool:
    """Let the first process ``draw`` into ``path``; where weights are shared out, the others draw and write nothing."""
    if session.gallery is None or not (first or session.sharded):
        return False
    try:
        with session.accelerator.autocast():
            draw(session.gallery, path if first else None)
    except (PolicyError, RunError) as error:
        console.warn(f"no picture {path}: {error}")
        return False
    if first:
        name = "samples" if path.name == SAMPLES else "preview"
        track_picture(session.accelerator, name, path, session.iteration, console)
    return True


def _diverged(what: str, run: RunFolder) -> RunError:
    found = checkpoints(run.checkpoints)
    last = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
    return RunError(f"{what}; {last}", GENTLER)


def _current(session: Session) -> Student:
    """The averaged student as it is now, which is both previewed and saved."""
    return session.average.at(session.iteration)


def _finish(session: Session, run: RunFolder, metrics: Metrics, started: float, shown: bool) -> dict:
    """Draw the losses, and give the facts of the run; ``shown``: whether there is a picture of it."""
    samples, curve = run.path / SAMPLES, run.path / "loss.png"
    draw_loss(metrics.rows, curve)
    return {
        "output": run.path,
        "adapter": run.adapter,
        "samples": samples if shown else None,
        "loss_curve": curve,
        "iterations": session.iteration,
        "skipped": metrics.skipped,
        "spikes": metrics.spikes,
        "pictures_left_out": session.data.left_out,
        "loss": metrics.last_loss,
        "seconds": round(time.perf_counter() - started, 1),
    }
