"""Folders that survive a power cut, and go again where nothing came into them."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


def make_folder(path: Path) -> None:
    """Make ``path`` and what is missing above it, so that a power cut does not take them back."""
    for folder in reversed(missing_folders(path)):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


@contextmanager
def in_folder(path: Path) -> Generator[None]:
    """Make ``path`` for the block; where that or the block fails, the new folders go again if they are empty."""
    missing = missing_folders(path)
    try:
        make_folder(path)
        yield
    except BaseException:
        remove_empty(missing)
        raise


def with_a_name(path: Path) -> Path:
    """``path``, in full where it ends in no name, as ``.`` and ``..`` do: beside those nothing can be named."""
    return path.resolve() if path.name in ("", "..") else path


def missing_folders(path: Path) -> list[Path]:
    """``path`` and the folders above it that do not exist, the innermost first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those of ``folders``, the innermost first, that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def bytes_below(path: Path) -> int:
    """The sizes of a file, or of all files below a folder, in bytes; what may not be looked into counts nothing."""
    if not path.is_dir():
        return path.lstat().st_size if os.path.lexists(path) else 0
    total = 0
    for place, _, names in os.walk(path):
        for name in names:
            # It may go meanwhile.
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def sync_file(path: Path) -> None:
    """Write the contents of a file to the disk; raises OSError where the disk fails."""
    # A file copied from elsewhere may forbid writing; Windows synchronises nothing else.
    number = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_folder(path: Path) -> None:
    """Write the names in a folder to the disk, on systems that can do that."""
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
