"""A thread beside the training loop: the bar stays alive during a long step, and the first signal gets an answer."""

from __future__ import annotations

import select
import signal
import socket
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from types import TracebackType

INTERVAL = 1.0  # seconds between two looks at the bar
END = 0  # no signal has this number
AGAIN = "stopping after this step; again to stop now"
ONCE = "stopping after this step"


class Watch:
    """A context with a thread that calls ``tick`` every second, and ``say`` at the first of some signals.

    Python's own handlers wait for the main thread, which may be in a kernel for a minute; the system's handler writes
    the number of a signal to a socket at once. Where the main thread, which alone may ask for that, does not enter the
    context, no signal is answered.

    Args:
        signals: numbers of those that ask a run to stop.
        forcing: those of them that stop it at once when they come again.
    """

    def __init__(
        self,
        signals: Collection[int],
        forcing: Collection[int],
        say: Callable[[str], object],
        tick: Callable[[], object],
    ) -> None:
        self._words = {number: AGAIN if number in forcing else ONCE for number in signals}
        self._say, self._tick = say, tick
        self._theirs, self._ours = socket.socketpair()
        self._before: int | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._ours.setblocking(False)
        if threading.current_thread() is threading.main_thread():
            self._before = signal.set_wakeup_fd(self._ours.fileno(), warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.set_wakeup_fd(self._before)
        # Where there is no room the thread has plenty to read, and closing ends it.
        with suppress(BlockingIOError):
            self._ours.send(bytes([END]))
        self._ours.close()
        self._thread.join()
        self._theirs.close()

    def _watch(self) -> None:
        while True:
            ready, _, _ = select.select([self._theirs], [], [], INTERVAL)
            if ready:
                numbers = self._theirs.recv(64)
                for number in numbers:
                    self._answer(number)
                if not numbers or END in numbers:
                    return
            self._tick()

    def _answer(self, number: int) -> None:
        if number in self._words:
            self._say(self._words[number])
            self._words = {}
