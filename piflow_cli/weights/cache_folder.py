"""The cache's folder from outside: what lies in it, and removing that; what is not ours, or is in use, stays."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from ..packages import object_at
from ..system.files import remove_folder, stood_aside
from ..system.folders import bytes_below
from ..system.holding import alone_in
from .cache_kinds import IDENTITY, CacheKind, kind_of

DAY = 24 * 3600  # seconds
IN_USE = "in use by another process"
_ANY = re.compile(".+", re.DOTALL)


@dataclass(frozen=True)
class CacheEntry:
    """A file or folder of a kind: its size in bytes, and when it was last read or written, in seconds since 1970.

    ``left_over``: it was being written, and stands under the name of something half.
    """

    kind: CacheKind
    path: Path
    bytes: int
    used: float
    left_over: bool = False

    @property
    def held_by(self) -> Path:
        """The folder that its users hold."""
        return self.path.parents[self.kind.depth - 1]


@dataclass
class Removal:
    """What was removed, by the path of an entry, with its bytes; and what stayed, with the reason."""

    removed: dict[Path, int] = field(default_factory=dict)
    stayed: dict[Path, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(self.removed.values())


def entries_in(root: Path) -> list[CacheEntry]:
    """All entries of the cache in the folder ``root``, sorted by path; none where there is no such folder."""
    return sorted(_found_in(root, root), key=lambda entry: entry.path)


def is_damaged(entry: CacheEntry) -> bool:
    """Whether an entry is no longer what was written; all of it is read, which counts as no use of it.

    Of what has no digest, and of what has gone meanwhile, nothing is known.
    """
    if entry.kind.whole is None or entry.left_over or not entry.path.exists():
        return False
    times = [(path, path.stat()) for path in _files_of(entry.path)]
    try:
        return not object_at(entry.kind.whole)(entry.path)
    finally:
        for path, status in times:
            with suppress(OSError):
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def is_unused(entry: CacheEntry, days: float) -> bool:
    """Whether an entry was neither read nor written for ``days``; of what is half-written one day is enough."""
    return entry.used < time.time() - DAY * (min(days, 1) if entry.left_over else days)


def remove(entries: Iterable[CacheEntry], root: Path, watch: Callable[[CacheEntry], None]) -> Removal:
    """Remove ``entries`` of the cache in ``root``, and folders that are empty then; ``watch`` is called after each."""
    told = Removal()
    by_holder: dict[Path, list[CacheEntry]] = {}
    for entry in entries:
        by_holder.setdefault(entry.held_by, []).append(entry)
    for holder, found in by_holder.items():
        with alone_in(holder) as alone:
            for entry in found:
                _remove(entry, alone, told)
                watch(entry)
    _clear_empty(root, {path.parent for path in told.removed})
    return told


def _found_in(folder: Path, root: Path) -> Iterator[CacheEntry]:
    try:
        inside = list(os.scandir(folder))
    except OSError:
        # It is not there, or may not be looked into.
        return
    for item in inside:
        path = Path(item.path)
        aside = stood_aside(path, _ANY)
        kind = kind_of((path if aside is None else path.with_name(aside)).relative_to(root).as_posix())
        is_folder = item.is_dir(follow_symlinks=False)
        # A link is somebody's own arrangement.
        if kind is not None and not item.is_symlink():
            yield CacheEntry(kind, path, bytes_below(path), _last_use(path), aside is not None)
        elif is_folder:
            yield from _found_in(path, root)


def _files_of(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def _last_use(path: Path) -> float:
    moments = [0.0]
    for file in _files_of(path):
        with suppress(OSError):
            status = file.stat()
            moments.append(max(status.st_atime, status.st_mtime))
    return max(moments)


def _remove(entry: CacheEntry, alone: bool, told: Removal) -> None:
    if not alone:
        told.stayed[entry.path] = IN_USE
        return
    try:
        with _its_lock(entry.path) as free:
            if not free:
                told.stayed[entry.path] = IN_USE
            elif entry.path.is_dir():
                remove_folder(entry.path)
            else:
                entry.path.unlink()
    except FileNotFoundError:
        # Another process has removed it.
        return
    except OSError as error:
        told.stayed[entry.path] = str(error.strerror)
        return
    if entry.path not in told.stayed:
        told.removed[entry.path] = entry.bytes


@contextmanager
def _its_lock(path: Path) -> Generator[bool]:
    """Whether no process is making the folder ``path``, see :func:`~piflow_cli.system.locking.waiting_for`."""
    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as stack:
        try:
            if lock.is_file():
                stack.enter_context(FileLock(lock, timeout=0))
        except Timeout:
            yield False
        else:
            yield True


def _clear_empty(root: Path, folders: Collection[Path]) -> None:
    """Remove ``folders`` that are empty, and those above them below ``root``; with the last entry its label goes."""
    for folder in folders:
        for place in (folder, *folder.parents):
            if place == root or not place.is_relative_to(root):
                break
            with suppress(OSError):
                if [path.name for path in place.iterdir()] == [IDENTITY]:
                    (place / IDENTITY).unlink()
                place.rmdir()
