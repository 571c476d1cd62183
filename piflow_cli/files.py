"""Writing aside and renaming, so that nothing on disk is ever half of something."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import UsageError

KEY_LENGTH = 32
CHUNK = 1 << 24  # bytes


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


def is_plain_name(name: object) -> bool:
    """Whether a name is that of a file in its own folder; what leads out of it is none."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0:")


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and is removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``path`` when the block ends well, and is removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    old = aside.with_suffix(".old")
    try:
        yield aside
        aside.chmod(0o755)
        if path.exists():
            path.rename(old)
        try:
            aside.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
