"""Locks: one run in a folder at a time, with a line where a process waits for another."""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from ..errors import UsageError
from .folders import make_folder, missing_folders, remove_empty

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK_NAME = "run.lock"
MOMENT = "%Y-%m-%d %H:%M:%S"
SECONDS_UNTIL_SAID = 1.0
# A process that has just taken a lock writes its name within a moment.
ATTEMPTS, SECONDS_BETWEEN = 20, 0.05
_BOOT = Path("/proc/sys/kernel/random/boot_id")

logger = logging.getLogger("piflow.locking")


@dataclass(frozen=True)
class LockHolder:
    """The process that a lock names.

    ``boot`` tells one start of one machine from all others; it is empty where the system has none. ``since`` ends in
    the distance of its clock from UTC, which differs from container to container.
    """

    pid: int
    host: str
    boot: str
    since: str

    @classmethod
    def here(cls) -> LockHolder:
        """This process."""
        boot = _BOOT.read_text().strip() if _BOOT.is_file() else ""
        return cls(os.getpid(), socket.gethostname(), boot, time.strftime(f"{MOMENT}%z"))

    @classmethod
    def read(cls, text: str) -> LockHolder | None:
        """The writer of ``text``; None where a crash or damage left nothing readable."""
        try:
            record = json.loads(text)
            return cls(int(record["pid"]), str(record["host"]), str(record["boot"]), str(record["since"]))
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def began(self) -> float | None:
        """``since`` in seconds since 1970; None where it is no time."""
        # Earlier versions wrote it without the distance from UTC.
        for form in (f"{MOMENT}%z", MOMENT):
            with suppress(ValueError, OverflowError):
                return datetime.strptime(self.since, form).timestamp()
        return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class FolderLock:
    """Keeps a second run out of a folder, as a context manager; the folder is made where it is missing.

    The system lets go of the lock when its process dies, however it dies, and then the next run takes it over. Where
    the file system knows no such locks, or another machine holds it, the record in the file decides. Raises UsageError,
    naming process and machine, where the folder is in use or that cannot be found out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LOCK_NAME
        self._made: list[Path] = []
        self._number: int | None = None

    def __enter__(self) -> FolderLock:
        self._made = missing_folders(self.folder)
        make_folder(self.folder)
        try:
            self._take()
        except BaseException:
            remove_empty(self._made)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        number, self._number = self._number, None
        _close(number, self.path)
        remove_empty(self._made)

    def follow(self, moved: Path) -> None:
        """Lock the folder anew at its path after its content moved to ``moved``; raises as the lock itself does."""
        number, self._number = self._number, None
        try:
            make_folder(self.folder)
            self._take()
        finally:
            _close(number, moved / LOCK_NAME)

    def _take(self) -> None:
        for attempt in range(ATTEMPTS):
            number = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                kept = _flock(number)
                held = LockHolder.read(os.read(number, 4096).decode(errors="replace"))
                # Its holder may not have written its name yet, or have removed the file since it was opened here.
                if attempt < ATTEMPTS - 1 and (not _same_file(number, self.path) or (kept is False and held is None)):
                    time.sleep(SECONDS_BETWEEN)
                    os.close(number)
                    continue
                if kept is False:
                    raise _in_use(self.folder, held)
                self._take_over(held, kept is None)
                os.ftruncate(number, 0)
                os.pwrite(number, (json.dumps(asdict(LockHolder.here())) + "\n").encode(), 0)
            except BaseException:
                os.close(number)
                raise
            self._number = number
            return

    def _take_over(self, held: LockHolder | None, unlocked: bool) -> None:
        """Make sure that the process in a lock is gone; ``unlocked``: the file system has no locks that could tell."""
        if held is None:
            return
        here = LockHolder.here()
        same_start = held.boot == here.boot != ""
        if held.host != here.host and (unlocked or not same_start):
            raise _unknown(self, held, "which cannot be looked at from here")
        restarted = held.boot != here.boot and "" not in (held.boot, here.boot)
        if unlocked and not restarted and held.pid != here.pid and _may_live(held.pid):
            raise _unknown(self, held, "which may be at work")
        logger.info(f"taking over {self.folder} from {held}, which is gone")


def holder_of(folder: Path) -> LockHolder | None:
    """The process that is at work in ``folder``; None where none is. The lock stays as it is."""
    try:
        number = os.open(folder / LOCK_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        held, here = LockHolder.read(os.read(number, 4096).decode(errors="replace")), LockHolder.here()
        if held is None or (held.host != here.host and not held.boot == here.boot != ""):
            # Of other machines the file alone tells.
            return held
        if held.boot != here.boot:
            return None
        # Containers of one machine have names and numbers of processes of their own, and share its locks.
        free = _flock(number, fcntl.LOCK_SH if fcntl else 0)
        gone = held.host == here.host and not _may_live(held.pid) if free is None else free
        return None if gone else held
    finally:
        os.close(number)


@contextmanager
def waiting_for(path: Path, what: str) -> Generator[None]:
    """Hold the lock file ``path``; a line says ``what`` is waited for where that takes longer than a moment."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=SECONDS_UNTIL_SAID)
    except Timeout:
        logger.info(f"waiting for another process: {what} (its lock is {path})")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _in_use(folder: Path, held: LockHolder | None) -> UsageError:
    who, stop = ("another process", "") if held is None else (str(held), f", or stop it there: kill {held.pid}")
    return UsageError(
        f"{folder} is in use by {who}", f"give this run a folder of its own with --output DIR, wait{stop}"
    )


def _unknown(lock: FolderLock, held: LockHolder, why: str) -> UsageError:
    return UsageError(
        f"{lock.folder} is locked by {held}, {why}", f"if it no longer runs there: rm {shlex.quote(str(lock.path))}"
    )


def _flock(number: int, kind: int | None = None) -> bool | None:
    """Lock an open file, by default against all others.

    False where another process has locked it, None where the file system knows no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(number, (fcntl.LOCK_EX if kind is None else kind) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _same_file(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), path.stat())
    except FileNotFoundError:
        return False


def _close(number: int | None, path: Path) -> None:
    if number is None:
        return
    # Removed before it is let go of: afterwards it may be another's.
    if _same_file(number, path):
        path.unlink(missing_ok=True)
    os.close(number)


def _may_live(pid: int) -> bool:
    """Whether a process of this machine may still be there; Windows cannot be asked without harm."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
