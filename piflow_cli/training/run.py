"""`piflow distill` from a resolved preset to a finished student."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import format_pairs
from ..core.validation import PolicyError
from ..data.sources import require_source
from ..errors import Interrupted, RunError, first_line
from ..ranks import is_first, launched_processes
from ..students.adapters import save_adapter
from ..students.runs import RunFolder
from ..students.student import Student
from ..system.files import check_writable
from ..system.locking import FolderLock
from ..system.processes import environment
from .checkpoints import GENTLER, checkpoints, load_checkpoint, save_checkpoint
from .dry_run.plan import describe
from .loop import LONGEST_STREAK, Session, take_pending, train_step
from .metrics import Metrics, draw_loss
from .opening import open_session
from .previews import save_comparison, save_preview
from .saved import is_saved
from .signals import StopRequest

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..console import Console
    from ..presets.schema import Preset

REPORT_EVERY = 10


def distill(preset: Preset, output: Path, device: str, resume: bool, console: Console) -> dict:
    """Train the student of ``preset`` into the folder ``output``; goes on from its last checkpoint if ``resume``.

    Returns what was made. Raises UsageError before anything is written where the folder, data or device do not fit or
    another run is at work in the folder, RunError where ten gradients in a row are not finite or a checkpoint is
    damaged, Interrupted after Ctrl-C, SIGTERM or SIGHUP. Variables of accelerate's own have no effect: the preset says
    everything that they could.
    """
    check_writable(output)
    # One process writes for all of a run, and one lock is enough for all.
    with environment(without="ACCELERATE_"), FolderLock(output) if is_first() else nullcontext() as lock:
        return _distill(preset, RunFolder(output), device, resume, lock, console)


def _distill(
    preset: Preset, run: RunFolder, device: str, resume: bool, lock: FolderLock | None, console: Console
) -> dict:
    started = time.perf_counter()
    if resume:
        run.check(preset)
    require_source(preset)
    console.say(format_pairs(describe(preset, run.path, device, launched_processes())))
    session = open_session(preset, run.path, device, console)
    fingerprint = session.data.fingerprint
    if resume:
        run.check_data(fingerprint)
    if lock is not None:
        _make_room(run, resume, lock, console)
    session.accelerator.wait_for_everyone()
    found, rows = checkpoints(run.checkpoints), None
    if found:
        rows = _restore(session, found[-1])
        console.say(f"resuming from {found[-1]}")
    metrics = None
    if lock is not None:
        run.write_settings(preset)
        run.write_data(fingerprint)
        metrics = Metrics(run.metrics, session.iteration, rows)
        if found and not is_saved(_current(session), run.adapter):
            console.say(f"the student of {found[-1]} is written again: {run.adapter} is not it")
            save_adapter(_current(session), run.adapter)
    with StopRequest() as stop:
        _train(session, run, metrics, console, stop)
    session.accelerator.end_training()
    return _finish(session, run, metrics, started, console) if metrics is not None else {}


def _make_room(run: RunFolder, resume: bool, lock: FolderLock, console: Console) -> None:
    """Clear away what earlier starts left in the folder, or move all of it out of the way."""
    if resume:
        for path in run.clear_leftovers():
            console.say(f"{path} was put back: the start before this one was killed while it replaced it")
    elif (aside := run.set_aside()) is not None:
        lock.follow(aside)
        console.say(f"the earlier run is now {aside}")


def _restore(session: Session, path: Path) -> str | None:
    """Go on from a checkpoint; returns the digest of the metrics until then."""
    state = session.state
    rows = load_checkpoint(path, state)
    session.iteration = state.iteration
    return rows


def _start_tracker(session: Session, name: str) -> None:
    """Raise RunError where the tracker does not start: it knows no account, or has no network."""
    try:
        session.accelerator.init_trackers("piflow", {"preset": session.preset.name, "seed": session.preset.seed})
    except Exception as error:
        # Each tracker has errors of its own.
        login = "wandb login; or " if name == "wandb" else ""
        raise RunError(
            f"the tracker {name} does not start: {first_line(error)}", f"{login}--set output.tracker=none"
        ) from error


def _train(session: Session, run: RunFolder, metrics: Metrics | None, console: Console, stop: StopRequest) -> None:
    output, total = session.preset.output, session.preset.optimisation.iterations
    if output.tracker != "none":
        _start_tracker(session, output.tracker)
    with console.progress(total, min(session.iteration, total), "distilling") as bar:
        while session.iteration < total:
            train_step(session)
            done = session.iteration
            stopped = _asked_to_stop(session, stop)
            ends = done == total or stopped
            diverged = session.streak == LONGEST_STREAK
            if done % REPORT_EVERY == 0 or done % output.checkpoint_every == 0 or ends or diverged:
                _report(session, metrics, bar, console)
            if diverged:
                raise _diverged(
                    f"{LONGEST_STREAK} steps in a row had gradients that are not finite, the last is iteration {done}",
                    run,
                )
            # Amid such steps the weights may be diverging, and would push out a checkpoint of better ones.
            if (done % output.checkpoint_every == 0 and session.streak == 0) or ends:
                _save(session, run, metrics)
            if output.preview_every and done % output.preview_every == 0 and metrics is not None:
                _preview(session, run.previews / f"{done:07d}.png", console)
            if stopped and done < total:
                text = f"stopped at iteration {done} of {total}; everything is saved"
                raise Interrupted(text, "run the same command again to go on", stop.number)


def _asked_to_stop(session: Session, stop: StopRequest) -> bool:
    """Whether any process was asked to: all must leave at the same step, or the others would wait for it for ever."""
    accelerator = session.accelerator
    if accelerator.num_processes == 1:
        return stop.asked
    if stop.asked:
        accelerator.set_trigger()
    return accelerator.check_trigger()


def _report(session: Session, metrics: Metrics | None, bar: tqdm, console: Console) -> None:
    """Read the losses, show and write them, and say which steps were skipped."""
    rows = take_pending(session)
    for row in rows:
        session.accelerator.log({key: row[key] for key in row if key != "iteration"}, step=row["iteration"])
        if metrics is not None:
            metrics.add(row)
        bar.set_postfix(loss=f"{row['loss']:.4f}", teacher_ratio=f"{row['teacher_ratio']:.2f}", refresh=False)
        bar.update()
    skipped = [row["iteration"] for row in rows if row["skipped"]]
    if skipped and metrics is not None:
        places = ", ".join(map(str, skipped))
        console.warn(
            f"steps without effect, since their gradients were not finite: iterations {places} ({metrics.skipped} so"
            " far)"
        )


def _preview(session: Session, path: Path, console: Console) -> None:
    if session.gallery is None:
        return
    try:
        with session.accelerator.autocast():
            save_preview(_current(session), session.gallery, path)
    except (PolicyError, RunError) as error:
        console.warn(f"no picture {path}: {error}")


def _diverged(what: str, run: RunFolder) -> RunError:
    found = checkpoints(run.checkpoints)
    last = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
    return RunError(f"{what}; {last}", GENTLER)


def _current(session: Session) -> Student:
    """The averaged student as it is now, which is both previewed and saved."""
    return session.average.at(session.iteration)


def _save(session: Session, run: RunFolder, metrics: Metrics | None) -> None:
    if metrics is not None:
        metrics.sync()
        save_checkpoint(run.checkpoints, session.state, session.preset.output.keep_checkpoints, metrics.digest)
        save_adapter(_current(session), run.adapter)
    session.accelerator.wait_for_everyone()


def _finish(session: Session, run: RunFolder, metrics: Metrics, started: float, console: Console) -> dict:
    """Save the last pictures, and give the facts of the run."""
    samples, curve = run.path / "samples.png", run.path / "loss.png"
    shown = session.gallery is not None
    if session.gallery is not None:
        try:
            with session.accelerator.autocast():
                save_comparison(_current(session), session.teacher, session.guidance, session.gallery, samples)
        except (PolicyError, RunError) as error:
            shown = False
            console.warn(f"no picture {samples}: {error}")
    draw_loss(metrics.rows, curve)
    return {
        "output": run.path,
        "adapter": run.adapter,
        "samples": samples if shown else None,
        "loss_curve": curve,
        "iterations": session.iteration,
        "skipped": metrics.skipped,
        "loss": metrics.last_loss,
        "seconds": round(time.perf_counter() - started, 1),
    }
