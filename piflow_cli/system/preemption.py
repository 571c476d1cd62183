"""SIGTERM and SIGUSR1, by which a system takes a machine away: a launcher passes them on to what it has launched."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

PREEMPTION = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


@contextmanager
def passing_on(program: str | None) -> Generator[list[int]]:
    """Pass them on, within the block, to this process's children that run ``program``; gives those that came.

    Where ``program`` is None, they do what they did before. So the children end by themselves, and their exit codes
    tell whether they have saved.
    """
    came: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for child in psutil.Process().children():
            # It may end meanwhile.
            with suppress(psutil.Error):
                if program in child.cmdline():
                    child.send_signal(number)

    before = {} if program is None else {number: signal.signal(number, pass_on) for number in PREEMPTION}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
