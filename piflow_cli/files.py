"""Writing aside and renaming, so that nothing on disk is ever half of something, whatever kills the process or the power."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UsageError

KEY_LENGTH = 32
CHUNK = 1 << 24  # bytes
# Of a name that is written aside as much is kept as leaves room for the rest; systems take 255 bytes.
NAME_BYTES = 200
_ASIDE = re.compile(r"\.(.+)\.[0-9a-z_]+\.(?:tmp|old)")
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD


def user_cache() -> Path:
    """Where piflow keeps what it can make again: ``piflow`` in XDG_CACHE_HOME, or in ~/.cache."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has relative paths ignored.
    return (named if named.is_absolute() else Path.home() / ".cache") / "piflow"


def check_writable(folder: Path) -> None:
    """Make sure, before anything is computed, that files can be made in ``folder``, which need not be there yet.

    Raises UsageError where a file is in the way, or the system refuses.
    """
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"{place} is a file", "name a folder: --output DIR")
    try:
        # Tried, because permissions alone do not tell: a file system may be read-only, or none that holds files.
        with tempfile.TemporaryDirectory(dir=place, prefix="."):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(f"{place} cannot be written to: {error.strerror}", "choose a folder you may write to: --output DIR") from error


def cache_key(**what: object) -> str:
    """A key of everything that shapes an entry of a cache; ``what`` must be JSON."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]


def files_digest(paths: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and is removed when it does not.

    When the block has ended, the file stays under its name whatever happens to the power.
    """
    make_folder(path.parent)
    aside = _aside(path, "tmp")
    try:
        yield aside
        sync_file(aside)
        os.replace(aside, path)
        sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``path`` when the block ends well, and is removed when it does not.

    Where the system can exchange two folders, there is always one at ``path`` that is whole; elsewhere :func:`recover` puts
    back what a process that was killed in between has left. What was synchronised here survives a power cut.
    """
    make_folder(path.parent)
    aside = _aside(path, "tmp")
    aside.mkdir()
    try:
        yield aside
        _sync_tree(aside)
        if not path.exists():
            os.rename(aside, path)
        elif not _exchange(aside, path):
            _swap(aside, path)
        sync_folder(path.parent)
    finally:
        _clear(aside)


def remove_folder(path: Path) -> None:
    """Remove a folder so that a crash never leaves half of it under its name; raises OSError where the system refuses."""
    aside = _aside(path, "tmp")
    os.rename(path, aside)
    # Otherwise its old name might come back after a power cut, to a part of what was in it.
    sync_folder(path.parent)
    shutil.rmtree(aside)


def recover(folder: Path, ours: re.Pattern[str]) -> list[Path]:
    """Clear away what writers that were killed left in ``folder``; none may be at work there.

    Only what stood aside of names that match ``ours`` in full is touched. What was moved out of the way of a successor that
    never came goes back, and is returned.
    """
    restored = []
    for left in sorted(folder.iterdir()) if folder.is_dir() else []:
        if (name := stood_aside(left, ours)) is None:
            continue
        place = folder / name
        if left.suffix == ".old" and not place.exists():
            os.rename(left, place)
            restored.append(place)
        else:
            _clear(left)
    if restored:
        sync_folder(folder)
    return restored


def stood_aside(path: Path, ours: re.Pattern[str]) -> str | None:
    """The name that ``path`` was written aside of, if that matches ``ours`` in full; None for any other file or folder."""
    found = _ASIDE.fullmatch(path.name)
    return None if found is None or ours.fullmatch(found[1]) is None else found[1]


def make_folder(path: Path) -> None:
    """Make ``path`` and what is missing above it, so that a power cut does not take them back."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """Have the contents of a file written to the disk; raises OSError where the disk fails."""
    # A file copied from elsewhere may forbid writing; Windows synchronises nothing else.
    number = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_folder(path: Path) -> None:
    """Have the names in a folder written to the disk, on systems that can be told to."""
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError:
        # Windows opens no folders; a folder that may be written to but not read cannot be opened either.
        return
    try:
        os.fsync(number)
    except OSError as error:
        # Some network and FUSE file systems know no synchronising of folders.
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EROFS):
            raise
    finally:
        os.close(number)


def _aside(path: Path, kind: str) -> Path:
    """A name beside ``path`` that nobody else has: process numbers repeat between containers that share a folder."""
    name = path.name.encode()[:NAME_BYTES].decode(errors="ignore")
    return path.with_name(f".{name}.{secrets.token_hex(8)}.{kind}")


def _clear(path: Path) -> None:
    """Remove what no reader looks for any more: best done, and no reason to fail."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            if not (path := Path(place, name)).is_symlink():
                sync_file(path)
        sync_folder(Path(place))


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders at once; False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.EXDEV):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _swap(aside: Path, path: Path) -> None:
    """Put ``aside`` in the place of ``path`` in two steps; ``path`` comes back where the second fails."""
    old = _aside(path, "old")
    os.rename(path, old)
    try:
        os.rename(aside, path)
    except OSError:
        os.rename(old, path)
        raise
    sync_folder(path.parent)
    _clear(old)
