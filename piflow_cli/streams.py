"""Output whose reader may go away: a pipe that breaks and a terminal that closes stop nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Unbreakable:
    """A text stream that falls silent at the first error of the system, and is the given one until then.

    The system's file behind it then leads to nowhere too, for what libraries write and for what is flushed at the end.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._silent = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write ``text``, if it can be written."""
        return self._tried(lambda: self._stream.write(text), len(text))

    def flush(self) -> None:
        """Flush the stream, if it can be flushed."""
        self._tried(self._stream.flush, None)

    def _tried(self, act: Any, otherwise: Any) -> Any:
        if self._silent:
            return otherwise
        try:
            return act()
        except OSError:
            self._silent = True
            silence(self._stream)
            return otherwise


def silence(stream: Any) -> None:
    """Lead what is written to ``stream`` from now on, and what is in its buffer, to nowhere."""
    # Streams that tests put in the place of the real ones have no file.
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def unbreakable(*names: str) -> Iterator[None]:
    """Make streams of :mod:`sys` unbreakable until the block ends; one that was closed before the start leads to nowhere."""
    before = {name: getattr(sys, name) for name in names}
    for name, stream in before.items():
        setattr(sys, name, Unbreakable(open(os.devnull, "w") if stream is None else stream))
    try:
        yield
    finally:
        for name, stream in before.items():
            getattr(sys, name).flush()
            setattr(sys, name, stream)
