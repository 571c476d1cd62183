"""What ends a run from outside: Ctrl-C, a terminal that closes, and a machine that is taken away (SIGTERM, SIGUSR1)."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from ..errors import Interrupted, PiflowError, Preempted
from ..system.preemption import PREEMPTION, let_through

SECONDS_OF_ONE_REQUEST = 1.0
GO_ON = "run the same command again to go on"


class StopRequest:
    """A context in which the first signal only sets :attr:`asked`, and :attr:`number` to its number.

    The same signal a second time raises KeyboardInterrupt, but for SIGHUP and SIGUSR1, which shells and schedulers send
    several times. A SIGTERM soon after another is the same request: a launcher that is killed sends one for each of its
    threads. A run that was started to ignore SIGHUP, as nohup does, goes on ignoring it.
    """

    SIGNALS = tuple(
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
    )
    HANG_UP = getattr(signal, "SIGHUP", None)
    FORCING = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.asked = False
        self.number: int = signal.SIGINT
        self._seen: dict[int, float] = {}
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        respected = [
            number for number in self.SIGNALS if number != self.HANG_UP or signal.getsignal(number) != signal.SIG_IGN
        ]
        self._before = _handled(respected, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = number in self._seen and not (
            number == signal.SIGTERM and now - self._seen[number] < SECONDS_OF_ONE_REQUEST
        )
        if again and number in self.FORCING:
            raise KeyboardInterrupt
        self._seen.setdefault(number, now)
        if not self.asked:
            self.asked, self.number = True, number


class _TakenAway(BaseException):
    """Unwinds the block of :func:`preemptible`, as KeyboardInterrupt would: no handler of errors keeps it."""


class Preemptible:
    """Says in ``state`` what a run has come to, for the moment in which its machine is taken away."""

    def __init__(self) -> None:
        self.state = "stopped before the first step; what was encoded until now is kept"
        self.asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The handler: the first signal ends the block, and no other disturbs what is cleared away then."""
        if not self.asked:
            self.asked = True
            raise _TakenAway


@contextmanager
def preemptible() -> Generator[Preemptible]:
    """A block that SIGTERM and SIGUSR1 end at once, as Preempted; within it, StopRequest has them wait for a step.

    Those that were held until then end it before it begins.
    """
    request = Preemptible()
    before = _handled(PREEMPTION, request.ask)
    try:
        with let_through():
            yield request
    except BaseException as error:
        # Another process of the run may have gone first, and an exchange with it have failed for that.
        if not request.asked or isinstance(error, PiflowError | OSError):
            raise
        raise Preempted(request.state, GO_ON) from error
    finally:
        _restore(before)


def stopped_by(number: int, done: int, total: int) -> Interrupted:
    """The end of a run that a signal stopped after ``done`` of ``total`` iterations."""
    text = f"stopped at iteration {done} of {total}; everything is saved"
    if number in PREEMPTION:
        return Preempted(text, GO_ON)
    return Interrupted(text, GO_ON, number)


def _handled(numbers: Iterable[int], handler: Any) -> dict[int, Any]:
    """Set ``handler`` for signals, and return what stood there; Python lets only the main thread handle signals."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in numbers}


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
