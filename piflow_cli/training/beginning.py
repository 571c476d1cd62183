"""What a run begins with: its folder in order, and the weights of its last checkpoint or of another run."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PiflowError, UsageError
from ..students.facts import StudentFacts
from ..students.fused_loras import FusedLora, told_loras
from ..students.locate import locate_student
from ..students.run_checkpoints import checkpoints, set_aside_damaged
from ..students.run_status import metric_lines
from ..students.run_versions import other_versions, write_versions
from ..students.runs import RunFolder
from ..weights.stored import StoredWeights
from .checkpoints import load_checkpoint
from .forking import begin_with
from .metrics import Metrics
from .saved import save, save_again
from .settings import network_evaluations

if TYPE_CHECKING:
    from ..console import Console
    from ..system.locking import FolderLock
    from .loop import Session
    from .spending import Spending


def begin(
    session: Session,
    run: RunFolder,
    source: Path | None,
    resume: bool,
    lock: FolderLock | None,
    console: Console,
    spending: Spending | None = None,
) -> Metrics | None:
    """Bring ``session`` to where the run in its folder stands, and record what the run is.

    ``source``: the checkpoint of another run to begin with. ``spending``: of a run under a budget.

    Returns the metrics of the run, on the process that has its ``lock``. Raises UsageError, before anything is written,
    where the run was begun with other data or LoRAs, or ``source`` is of another student; RunError where no checkpoint
    is whole.
    """
    fingerprint = session.data.fingerprint
    if resume:
        run.check_data(fingerprint)
        _check_loras(session, run)
    if source is not None:
        begin_with(session.state, source)
        _warn_of_loras(session, source, console)
        console.say(f"the run begins with the weights of {source}")
    if lock is not None:
        _make_room(run, resume, lock, console)
    session.accelerator.wait_for_everyone()
    found, rows = checkpoints(run.checkpoints), None
    if found:
        rows = _restore(session, found[-1])
        session.streak = _streak(run, session.iteration)
        console.say(f"resuming from {found[-1]}")
    metrics = None
    if lock is not None:
        if found and (changed := other_versions(run.path)) is not None:
            console.warn(changed)
        # Settings without these could not be gone on with: a planned length has its plan, and a fork its source.
        if spending is not None:
            spending.write()
        if source is not None:
            run.write_fork(source)
        run.write_settings(session.preset)
        run.write_data(fingerprint)
        write_versions(run.path)
        metrics = Metrics(run.metrics, session.iteration, rows)
        session.evaluations = _evaluations(session, metrics)
    if found and save_again(session, run, lock is not None):
        console.say(f"the student of {found[-1]} is written again: {run.adapter} was not it")
    if source is not None:
        # From here on the run depends on no other.
        save(session, run, metrics)
    return metrics


def _check_loras(session: Session, run: RunFolder) -> None:
    """Raise UsageError where the files of LoRAs are no longer those that the run was begun with, by its student."""
    before, now = _loras_of(run), session.student.facts.teacher_loras
    if before not in (None, now):
        raise UsageError(
            f"the LoRAs are no longer those that {run.path} was begun with: they were {told_loras(before)}, and are"
            f" {told_loras(now)}",
            "put back the files that it had, name another folder with --output DIR, or start over with --no-resume",
        )


def _warn_of_loras(session: Session, source: Path, console: Console) -> None:
    """Warn where the run of the checkpoint ``source`` had other LoRAs in its base."""
    before, now = _loras_of(RunFolder(source.parent.parent)), session.student.facts.teacher_loras
    if before not in (None, now):
        told = [told_loras(loras) if loras else "none" for loras in (before, now)]
        console.warn(
            f"the weights of {source} were trained on a base with other LoRAs: {told[0]} there, {told[1]} here"
        )


def _loras_of(run: RunFolder) -> tuple[FusedLora, ...] | None:
    """The LoRAs that the student of ``run`` says of; None where there is none yet, or it is damaged."""
    try:
        # A short path that is not there reads like a repository on the Hub.
        found = locate_student(run.adapter.absolute())
        return StudentFacts.from_metadata(StoredWeights(found.weights).metadata).teacher_loras
    except PiflowError:
        return None


def _make_room(run: RunFolder, resume: bool, lock: FolderLock, console: Console) -> None:
    """Clear away what earlier starts left in the folder, or move all of it out of the way."""
    run.clear_early()
    if resume:
        for path in run.clear_leftovers():
            console.say(f"{path} was put back: the start before this one was killed while it replaced it")
        for line in set_aside_damaged(run.checkpoints):
            console.warn(line)
    elif (aside := run.set_aside()) is not None:
        lock.follow(aside)
        console.say(f"the earlier run is now {aside}")


def _evaluations(session: Session, metrics: Metrics) -> int:
    """Network evaluations of the run until now: as its last row says, or as a plan expects where there is none."""
    last = metrics.rows[-1] if metrics.rows else {}
    if last.get("iteration") == session.iteration and isinstance(last.get("evaluations"), int):
        return last["evaluations"]
    return session.iteration * network_evaluations(session.preset)


def _restore(session: Session, path: Path) -> str | None:
    """Go on from a checkpoint; returns the digest of the metrics until then."""
    state = session.state
    rows = load_checkpoint(path, state)
    session.iteration = state.iteration
    return rows


def _streak(run: RunFolder, iteration: int) -> int:
    """The number of steps until ``iteration`` that were skipped in a row, by the metrics, which all processes read."""
    skipped = [row.get("skipped", False) for _, row in metric_lines(run.metrics) if row["iteration"] <= iteration]
    return len(list(takewhile(bool, reversed(skipped))))
