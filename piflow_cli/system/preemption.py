"""SIGTERM and SIGUSR1, by which a system takes a machine away: held while a command begins, passed on by a launcher."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

import psutil

PREEMPTION = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
SECONDS_BETWEEN_LOOKS = 0.1
# Windows knows neither of the two as a signal that another process sends.
_CAN_WAIT = hasattr(signal, "pthread_sigmask")


@contextmanager
def held(wanted: bool = True) -> Generator[None]:
    """Let them wait, within the block and if ``wanted``, for :func:`let_through`; what is left at its end is dropped.

    A library that is being imported could lose what a handler raises, and without one they end the process unsaid.
    Threads and processes that are started meanwhile hold them too.
    """
    if not (wanted and _CAN_WAIT):
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, PREEMPTION)
    try:
        yield
    finally:
        _arrived()
        # Held before as well in a process that piflow has launched: what ends it after the run need not wait.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PREEMPTION)


@contextmanager
def let_through() -> Generator[None]:
    """Let them come to their handlers within the block, those first that have waited."""
    if not _CAN_WAIT:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PREEMPTION)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def passing_on(program: str | None) -> Generator[list[int]]:
    """Pass them on, within the block, to this process's children that run ``program``; gives those that came.

    Where ``program`` is None, they do what they did before. So the children end by themselves, and their exit codes
    tell whether they have saved. Children that are started after a signal came get it too.
    """
    came: list[int] = []
    if program is None or not _CAN_WAIT:
        yield came
        return
    over, known = threading.Event(), set()

    def look() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            fresh = _arrived()
            came.extend(fresh)
            # All processes of the machine are read for it, which a run of days is spared.
            if came:
                _tell(program, fresh, came, known)

    with held():
        came += _arrived()
        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        try:
            yield came
        finally:
            over.set()
            looking.join()


def _arrived() -> list[int]:
    """Those that wait, which wait no longer then."""
    waiting = [number for number in PREEMPTION if number in signal.sigpending()]
    if not hasattr(signal, "sigtimedwait"):
        return [signal.sigwait([number]) for number in waiting]
    # A thread that does not hold them may have taken one meanwhile.
    return [number for number in waiting if signal.sigtimedwait([number], 0) is not None]


def _tell(program: str, fresh: list[int], came: list[int], known: set[int]) -> None:
    """Send children the ``fresh`` signals, and to those that are not ``known`` yet all that ``came``, once each."""
    for child in psutil.Process().children():
        # It may end meanwhile.
        with suppress(psutil.Error):
            if program in child.cmdline():
                for number in fresh if child.pid in known else dict.fromkeys(came):
                    child.send_signal(number)
                known.add(child.pid)
