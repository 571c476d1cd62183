"""Where a run stands, read from its folder alone: while it runs and after, from any machine that sees the files."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import Literal

from ..errors import PiflowError, UsageError
from ..system.locking import LockHolder, holder_of
from .locate import CONFIG_NAME, WEIGHTS_NAME
from .run_checkpoints import newest_whole, those_set_aside
from .run_settings import recorded_length
from .runs import RunFolder
from .stated import stated_facts

State = Literal["finished", "running", "stopped", "broken"]
SMOOTHING = 25  # iterations whose mean loss is shown


@dataclass(frozen=True)
class RunStatus:
    """A run's state, and how far it has come.

    ``why``: what is broken, and nothing else. ``damaged``: the checkpoints that are not as they were written, and those
    that were set aside for it; the run goes on from ``checkpoint``, the newest whole one. ``loss``: the mean of the
    last iterations; ``rate``: iterations a second since it was started, of a running one. ``samples_per_second``: of
    its last steps, without what is saved and drawn between them; ``peak_memory``: bytes, the most that a process has
    had. ``evaluations``: of a network, for one sample each. ``spent``: seconds of the ``budget`` until the last
    checkpoint. ``next``: what to type; None where there is nothing to do but wait.
    """

    folder: Path
    state: State
    why: str | None = None
    iteration: int = 0
    iterations: int | None = None
    loss: float | None = None
    skipped: int = 0
    rate: float | None = None
    samples_per_second: float | None = None
    peak_memory: int | None = None
    evaluations: int | None = None
    budget: str | None = None
    spent: float | None = None
    process: LockHolder | None = None
    checkpoint: Path | None = None
    damaged: tuple[str, ...] = ()
    preview: Path | None = None
    next: str | None = None

    @property
    def seconds_left(self) -> float | None:
        """At the rate until now; None where that is not known."""
        if self.rate is None or self.iterations is None or self.rate <= 0:
            return None
        return (self.iterations - self.iteration) / self.rate

    def record(self) -> dict[str, object]:
        """The status for a program; what is not known is null."""
        process = self.process
        return {
            "folder": self.folder,
            "state": self.state,
            "why": self.why,
            "iteration": self.iteration,
            "iterations": self.iterations,
            "loss": self.loss,
            "skipped": self.skipped,
            "iterations_per_second": self.rate,
            "samples_per_second": self.samples_per_second,
            "peak_memory": self.peak_memory,
            "seconds_left": self.seconds_left,
            "evaluations": self.evaluations,
            "budget": self.budget,
            "seconds_spent": self.spent,
            "process": None if process is None else {"pid": process.pid, "host": process.host, "since": process.since},
            "checkpoint": self.checkpoint,
            "damaged": list(self.damaged),
            "preview": self.preview,
            "next": self.next,
        }

    def pairs(self) -> dict[str, object]:
        """The status for people: what is known, in words."""
        of = "" if self.iterations is None else f" of {self.iterations}"
        said: dict[str, object] = {
            "run": self.folder,
            "state": self.state if self.why is None else f"broken: {self.why}",
        }
        if self.process is not None:
            said["by"] = str(self.process)
        said["iteration"] = f"{self.iteration}{of}"
        if self.loss is not None:
            said["loss"] = f"{self.loss:.4g}, the mean of the last {min(SMOOTHING, self.iteration)}"
        if self.skipped:
            said["skipped"] = f"{self.skipped} steps, whose gradients were not finite"
        if self.rate is not None:
            said["rate"] = f"{self.rate:.3g} iterations a second"
        if self.samples_per_second is not None:
            memory = "" if self.peak_memory is None else f", {self.peak_memory / 1e9:.2f} GB of memory at most"
            said["speed"] = f"{self.samples_per_second:.3g} samples a second of steps{memory}"
        if self.seconds_left is not None:
            said["left"] = duration(self.seconds_left)
        if self.damaged:
            said["damaged"] = "; ".join(self.damaged)
        spent = [] if self.evaluations is None else [f"{self.evaluations:,} network evaluations"]
        if self.budget is not None and self.spent is not None:
            spent.append(f"at the last checkpoint {duration(self.spent)} of a budget of {self.budget}")
        if spent:
            said["spent"] = "; ".join(spent)
        for name in ("checkpoint", "preview", "next"):
            if (value := getattr(self, name)) is not None:
                said[name] = value
        return said


def duration(seconds: float) -> str:
    """The two largest units of a time: "2 h 5 min"."""
    whole = max(0, round(seconds))
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    first = next((place for place, (_, size) in enumerate(units) if whole >= size), len(units) - 1)
    parts = []
    for name, size in units[first : first + 2]:
        parts.append(f"{whole // size} {name}")
        whole %= size
    return " ".join(part for part in parts if not part.startswith("0 ")) or "0 s"


def status_of(path: Path, whole: bool = True) -> RunStatus:
    """The status of the run in the folder ``path``; nothing in it is touched. Raises UsageError where there is none.

    Where nobody is at work, the newest checkpoint is held against its checksums, as a start would; ``whole``: all of it
    is read for that, and otherwise its record alone.
    """
    run = RunFolder(path)
    if not run.settings.is_file():
        there = "holds no run" if path.is_dir() else "is not there"
        raise UsageError(f"{path} {there}", "name the folder of a run: piflow status RUN")
    process = holder_of(path)
    try:
        asked, budget = recorded_length(run.settings)
        spent = None if budget is None else run.read_budget().spent
    except PiflowError as error:
        return RunStatus(path, "broken", error.message, process=process)
    rows = [row for _, row in metric_lines(run.metrics)]
    checkpoint = max(_numbered(run.checkpoints), default=None, key=lambda found: int(found.name))
    preview = max(_numbered(run.previews, ".png"), default=None, key=lambda found: int(found.stem))
    done = rows[-1]["iteration"] if rows else 0
    losses = [row["loss"] for row in rows[-SMOOTHING:] if row["loss"] is not None]
    # Runs of earlier versions have measured nothing.
    speeds = [row["samples_per_second"] for row in rows[-SMOOTHING:] if "samples_per_second" in row]
    found = RunStatus(
        path,
        "stopped",
        iteration=done,
        iterations=asked,
        loss=math.fsum(losses) / len(losses) if losses else None,
        skipped=sum(row.get("skipped", False) for row in rows),
        samples_per_second=statistics.median(speeds) if speeds else None,
        peak_memory=rows[-1].get("peak_memory") if rows else None,
        # Runs of earlier versions counted none.
        evaluations=rows[-1].get("evaluations") if rows else None,
        budget=budget,
        spent=spent,
        process=process,
        checkpoint=checkpoint,
        preview=preview,
        next=run.command(),
    )
    aside = tuple(f"{path.name} was set aside" for path in those_set_aside(run.checkpoints))
    if process is not None:
        return replace(found, state="running", rate=_rate(run, process, done), damaged=aside, next=None)
    checkpoint, faults = newest_whole(run.checkpoints, whole)
    found = replace(
        found, checkpoint=checkpoint, damaged=(*(f"{one.path.name}: {one.reason}" for one in faults), *aside)
    )
    if checkpoint is None and faults:
        return replace(found, state="broken", why=faults[0].message, next=f"{run.command()} --no-resume")
    if checkpoint is not None and (why := _fault_of_student(run)) is not None:
        return replace(found, state="broken", why=why)
    if checkpoint is not None and int(checkpoint.name) >= asked:
        return replace(found, state="finished", next=f"piflow sample {quote(str(path))}")
    return found


def _fault_of_student(run: RunFolder) -> str | None:
    """What is wrong with the student of a run, which has one from its first checkpoint on; its header is read alone."""
    weights = run.adapter / WEIGHTS_NAME
    for path in (run.adapter, weights, run.adapter / CONFIG_NAME):
        if not path.exists():
            return f"{path} is missing"
    try:
        stated_facts(weights)
    except PiflowError as error:
        return error.message
    return None


def metric_lines(path: Path) -> Iterator[tuple[str, dict]]:
    """The lines of a metrics file and their content; none where there is no file. A line cut short is passed over."""
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []:
        try:
            row = json.loads(line)
            if isinstance(row["iteration"], int) and isinstance(row["loss"], (float, int, type(None))):
                yield line, row
        except (ValueError, KeyError, TypeError):
            continue


def _numbered(folder: Path, ending: str = "") -> list[Path]:
    """What lies in ``folder`` under the number of an iteration."""
    found = folder.iterdir() if folder.is_dir() else []
    return [path for path in found if path.suffix == ending and len(path.stem) >= 7 and path.stem.isdigit()]


def _rate(run: RunFolder, process: LockHolder, done: int) -> float | None:
    """Iterations a second since the process began, or between its checkpoints, before which something was loaded.

    A clock that is set back or forward meanwhile makes one of the spans negative or long, and another one is taken.
    """
    if (began := process.began) is None:
        return None
    marks = []
    for path in _numbered(run.checkpoints):
        # The run may remove it meanwhile.
        with suppress(FileNotFoundError):
            marks.append((int(path.name), path.stat().st_mtime))
    marks.sort()
    before = max((number for number, moment in marks if moment < began), default=0)
    points = [mark for mark in marks if mark[1] >= began and mark[0] < done]
    points = points if points else [(before, began)]
    if run.metrics.is_file():
        points.append((done, run.metrics.stat().st_mtime))
    spans = [
        (last - first, end - start) for (first, start), (last, end) in pairwise(points) if last > first and end > start
    ]
    return statistics.median_high([count / seconds for count, seconds in spans]) if spans else None
