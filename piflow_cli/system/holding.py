"""Folders that several processes use at once, and that nobody is to clear meanwhile."""

from __future__ import annotations

import os
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, which removes no file that is open
    fcntl = None


class Holding:
    """Keeps ``folder`` in use until this object goes, or its process dies, however it dies.

    The system locks the folder itself, so that nothing is written, and a cache that others own can be held too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held = False

    def begin(self) -> None:
        """Hold the folder from now on; does nothing while it is not there, or where the system knows no such locks."""
        if self._held or fcntl is None:
            return
        try:
            number = os.open(self.folder, os.O_RDONLY)
        except OSError:
            return
        try:
            fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            os.close(number)
            return
        weakref.finalize(self, os.close, number)
        self._held = True


@contextmanager
def alone_in(folder: Path) -> Generator[bool]:
    """Whether no process holds ``folder``, and none can begin to within the block.

    False too where that cannot be found out: the file system knows no locks, or the folder may not be read.
    """
    if fcntl is None:
        yield True
        return
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(number)
