"""How long a process waits for the others of its run in a step, and which of them did not come."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from torch.distributed import distributed_c10d

from ..errors import RunError, UsageError
from ..system.processes import LONGEST

if TYPE_CHECKING:
    from .loop import Session

VARIABLE = "PIFLOW_STEP_TIMEOUT"
SECONDS = 1800.0
# The others notice it at the same moment, but for what their clocks and the network add.
SECONDS_TO_ANSWER = 5.0
_TIMED_OUT = re.compile(r"tim(ed|e) ?out", re.IGNORECASE)
_LOST = re.compile(r"connection (closed|reset|refused)|socket closed|peer", re.IGNORECASE)


def step_timeout() -> float:
    """Seconds, as the environment says; raises UsageError where that is no number above 0."""
    said = os.environ.get(VARIABLE)
    try:
        seconds = SECONDS if said is None else float(said)
        if 0 < seconds <= LONGEST.total_seconds():
            return seconds
    except ValueError:
        pass
    raise UsageError(f"{VARIABLE} is {said!r}, and no number of seconds above 0", f"export {VARIABLE}=1800")


@contextmanager
def limited_waiting(session: Session) -> Generator[None]:
    """Within the block, exchanges between processes end after :func:`step_timeout` seconds, as RunError.

    It names this process and those that did not come. Before and after it, some wait for hours while one encodes.
    """
    if session.accelerator.num_processes == 1:
        yield
        return
    seconds = step_timeout()
    _set_timeout(timedelta(seconds=seconds))
    try:
        yield
    except RuntimeError as error:
        rank, count = session.accelerator.process_index, session.accelerator.num_processes
        place = f"process {rank} of {count}, at iteration {session.iteration}, "
        if _TIMED_OUT.search(str(error)):
            raise RunError(
                f"{place}waited {seconds:g} s for the others: {_named(_absent(rank, count))}",
                "look at that process and its machine, then run the same command again to go on from the last"
                f" checkpoint; to wait longer: export {VARIABLE}=SECONDS",
            ) from error
        if _LOST.search(str(error)):
            raise RunError(
                f"{place}lost its connection to the others", "look for what another process has said"
            ) from error
        raise
    _set_timeout(LONGEST)


def _set_timeout(wait: timedelta) -> None:
    """Of all groups that exist: of the run, and of shares of it."""
    # Newer torch has it in public.
    name = "set_timeout" if hasattr(distributed_c10d, "set_timeout") else "_set_pg_timeout"
    set_timeout = getattr(distributed_c10d, name)
    for group in list(distributed_c10d._world.pg_map):
        set_timeout(wait, group)


def _absent(rank: int, count: int) -> list[int]:
    """The processes that do not say, in the store by which all found each other, that they have waited too."""
    try:
        store = distributed_c10d._get_default_store()
        store.set(f"piflow/waited/{rank}", "yes")
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while absent := [other for other in range(count) if not store.check([f"piflow/waited/{other}"])]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
    except RuntimeError:
        # The process that keeps the store has gone.
        return []
    return absent


def _named(absent: list[int]) -> str:
    if not absent:
        return "it is not known which did not come"
    return f"process{'es' if len(absent) > 1 else ''} {', '.join(map(str, absent))} did not come"
