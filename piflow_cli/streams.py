"""The streams of a command: apart from what libraries write, and unbreakable when a reader goes away.

With --json and --quiet, output of libraries goes nowhere, down to the C level.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_IN, _OUT, _ERR = 0, 1, 2
# No user can act on the warnings that these give at import, such as kernels that a CPU could have too.
CHATTY = ("bitsandbytes",)
_ours: tuple[TextIO | UnbreakableStream, TextIO | UnbreakableStream] | None = None
# Never closed: the logger of a library that was imported meanwhile keeps it for good.
_nowhere: TextIO | None = None


class UnbreakableStream:
    """A text stream that falls silent at the first error of the system.

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
    """Lead ``stream``, from now on and with its buffer, to nowhere."""
    # Streams that tests put in the place of the real ones have no file.
    with suppress(OSError, ValueError, AttributeError):
        _drop([stream.fileno()])


@contextmanager
def unbreakable(*names: str) -> Generator[None]:
    """Make streams of :mod:`sys` unbreakable for the block; one that was closed before leads to nowhere."""
    before = {name: getattr(sys, name) for name in names}
    for name, stream in before.items():
        setattr(sys, name, UnbreakableStream(open(os.devnull, "w") if stream is None else stream))
    try:
        yield
    finally:
        for name, stream in before.items():
            getattr(sys, name).flush()
            setattr(sys, name, stream)


def occupy() -> None:
    """Lead those of stdin, stdout and stderr that were closed before the start to nowhere.

    Else the next file that is opened would take such a number, and get what libraries and children print.
    """
    for number in (_IN, _OUT, _ERR):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(opened, number)
                os.close(opened)


def takes_data() -> bool:
    """Whether there is a stdout, and it is open for writing; whether somebody reads it does not matter here."""
    if sys.stdout is None:
        return False
    # Streams that tests put in the place of the real one have no file.
    with suppress(ValueError, AttributeError, OSError):
        number = sys.stdout.fileno()
        try:
            os.write(number, b"")
        except OSError as error:
            return error.errno != errno.EBADF
    return True


@contextmanager
def calm() -> Generator[None]:
    """Reduce, for the block, libraries that warn of nothing a user can act on to their errors."""
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def out() -> TextIO | UnbreakableStream:
    """The stream of data."""
    return sys.stdout if _ours is None else _ours[0]


def err() -> TextIO | UnbreakableStream:
    """The stream of everything else."""
    return sys.stderr if _ours is None else _ours[1]


@contextmanager
def only_ours(wanted: bool = True) -> Generator[None]:
    """Let through, for the block, only what is written to :func:`out` and :func:`err`, if ``wanted``.

    Whatever else this process and its children write to stdout and stderr is dropped: by ``print``, ``warnings`` and
    loggers, and by libraries in C, which know only the file descriptors.
    """
    global _ours
    if not wanted or _ours is not None:
        yield
        return
    streams = sys.stdout, sys.stderr
    ours = _own(sys.stdout, _OUT), _own(sys.stderr, _ERR)
    _ours = ours[0], UnbreakableStream(ours[1])
    kept = {number: copy for number in (_OUT, _ERR) if (copy := _copy(number)) is not None}
    try:
        _drop(kept)
        sys.stdout = sys.stderr = _dropping()
        yield
    finally:
        _flush(streams)
        _give_back(kept)
        sys.stdout, sys.stderr = streams
        _ours = None
        for own in ours:
            # Whoever read it may be gone.
            with suppress(OSError):
                own.flush() if own in (*streams, _nowhere) else own.close()
        for copy in kept.values():
            os.close(copy)


@contextmanager
def unbreakable_out() -> Generator[None]:
    """Let the block go on when nobody reads its data any more."""
    global _ours
    if _ours is None:
        with unbreakable("stdout"):
            yield
        return
    before, _ours = _ours, (UnbreakableStream(_ours[0]), _ours[1])
    try:
        yield
    finally:
        _ours = before


@contextmanager
def inherited() -> Generator[None]:
    """Let child processes inherit the original streams for the block: they speak for this process."""
    if _ours is None:
        yield
        return
    now = {number: copy for number in (_OUT, _ERR) if (copy := _copy(number)) is not None}
    for number, stream in zip((_OUT, _ERR), _ours):
        # A stream in memory, of a caller in this process, is nothing that a child can write to.
        with suppress(OSError, ValueError):
            os.dup2(stream.fileno(), number)
    try:
        yield
    finally:
        _give_back(now)
        for copy in now.values():
            os.close(copy)


def hush() -> None:
    """Drop the output of libraries while the interpreter ends; nothing is to be written after it."""
    _flush((sys.stdout, sys.stderr))
    _drop((_OUT, _ERR))


def _own(stream: TextIO | None, number: int) -> TextIO:
    """A stream of our own to the target of ``stream``; itself where it does not use file descriptor ``number``."""
    if stream is None:
        return _dropping()
    try:
        stream.flush()
        if stream.fileno() != number:
            return stream
    except (OSError, ValueError):
        return stream
    return open(os.dup(number), "w", buffering=1, encoding=stream.encoding, errors=stream.errors)


def _dropping() -> TextIO:
    global _nowhere
    if _nowhere is None:
        _nowhere = open(os.devnull, "w", encoding="utf-8", errors="replace")
    return _nowhere


def _copy(number: int) -> int | None:
    try:
        return os.dup(number)
    except OSError:
        return None  # closed by whoever started us


def _drop(numbers: Iterable[int]) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for number in numbers:
        os.dup2(null, number)
    os.close(null)


def _flush(streams: Iterable[TextIO | None]) -> None:
    """Write out what is kept back, by libraries in C too: after the streams are given back it would arrive."""
    for stream in streams:
        # One that is closed, or whose reader has gone, keeps nothing that could arrive.
        with suppress(OSError, ValueError, AttributeError):
            if stream is not None:
                stream.flush()
    if os.name == "posix":
        import ctypes

        ctypes.CDLL(None).fflush(None)


def _give_back(copies: dict[int, int]) -> None:
    for number, copy in copies.items():
        os.dup2(copy, number)
