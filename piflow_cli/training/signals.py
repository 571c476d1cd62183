"""Ctrl-C, SIGTERM and a terminal that closes: the first stops a run at the next step, the second at once."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

SECONDS_OF_ONE_REQUEST = 1.0


class StopRequest:
    """A context in which the first SIGINT, SIGTERM or SIGHUP only sets :attr:`asked`, and :attr:`number` to its number.

    The same signal a second time raises KeyboardInterrupt, but for SIGHUP, which shells and systems send several times
    at the end of a session. A SIGTERM soon after another is the same request: a launcher that is killed sends one for
    each of its threads. A run that was started to ignore SIGHUP, as nohup does, goes on ignoring it.
    """

    SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
    HANG_UP = getattr(signal, "SIGHUP", None)

    def __init__(self) -> None:
        self.asked = False
        self.number: int = signal.SIGINT
        self._seen: dict[int, float] = {}
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python lets only the main thread of a process handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                if number != self.HANG_UP or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = number in self._seen and not (
            number == signal.SIGTERM and now - self._seen[number] < SECONDS_OF_ONE_REQUEST
        )
        if again and number != self.HANG_UP:
            raise KeyboardInterrupt
        self._seen.setdefault(number, now)
        if not self.asked:
            self.asked, self.number = True, number
