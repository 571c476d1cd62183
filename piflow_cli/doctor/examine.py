"""Run checks in a process of their own: one that crashes or hangs is a finding, and stops nothing else."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from ..errors import DEBUG_VARIABLE
from ..streams import hush
from .findings import Finding, Probe, broken, missing

LONGEST = 55.0  # seconds of all checks
SECONDS_TO_STOP = 1.0


@dataclass(frozen=True)
class Examined:
    """A check, what it found, and the seconds that it took."""

    check: Probe
    finding: Finding
    seconds: float

    def as_row(self) -> dict[str, object]:
        """The keys of one check under --json."""
        found = self.finding
        return {
            "check": self.check.name,
            "state": found.state,
            "says": found.says,
            "hint": found.hint,
            "purpose": self.check.purpose,
            "seconds": round(self.seconds, 2),
            "facts": dict(found.facts),
        }


def examine(
    checks: Sequence[Probe], seconds: float = LONGEST, watch: Callable[[Probe], None] = lambda check: None
) -> list[Examined]:
    """Each of ``checks`` in turn, within ``seconds`` in all; ``watch`` is called before each."""
    rows: list[Examined] = []
    end = time.monotonic() + seconds
    while len(rows) < len(checks):
        left = checks[len(rows) :]
        if time.monotonic() >= end:
            rows += [Examined(check, missing(f"not looked at: {seconds:g} seconds are over"), 0.0) for check in left]
        else:
            rows += _in_a_process(left, end, watch)
    return rows


def _in_a_process(checks: Sequence[Probe], end: float, watch: Callable[[Probe], None]) -> Iterator[Examined]:
    """The checks until one ends the process, or time is over, which is its finding."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(checks, there), daemon=True)
    process.start()
    there.close()
    try:
        for check in checks:
            watch(check)
            begun = time.monotonic()
            finding = _received(here, process, max(0.0, end - begun))
            yield Examined(check, finding or _ended(process, time.monotonic() - begun), time.monotonic() - begun)
            if finding is None:
                return
    finally:
        process.kill()
        process.join(SECONDS_TO_STOP)
        here.close()


def _received(connection: Connection, process: multiprocessing.process.BaseProcess, seconds: float) -> Finding | None:
    """The next finding, or None where the process has ended without, or takes longer."""
    try:
        return connection.recv() if connection.poll(seconds) else None
    except EOFError:
        process.join(SECONDS_TO_STOP)
        return None


def _ended(process: multiprocessing.process.BaseProcess, seconds: float) -> Finding:
    code = process.exitcode
    if code is None:
        return broken(f"has not ended after {seconds:.0f} seconds")
    return broken(f"ended its process by signal {-code}" if code < 0 else f"ended its process with code {code}")


def _run(checks: Sequence[Probe], connection: Connection) -> None:
    """In the process: every finding goes through ``connection``, and what libraries write goes nowhere."""
    if os.environ.get(DEBUG_VARIABLE) != "1":
        hush()
    for check in checks:
        connection.send(check.find())
