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
LONGEST_NAME = 200  # bytes of a file's or folder's name: file systems take 255, and names are written aside with a suffix
SHOWN_NAME = 60
NAME_CACHE = "export XDG_CACHE_HOME=DIR"


def user_cache() -> Path:
    """Where piflow keeps what it can make again: ``piflow`` in XDG_CACHE_HOME, or in ~/.cache.

    Raises UsageError where neither is known: the variable is not set, and the user has no home.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has relative paths ignored.
    if named.is_absolute():
        return named / "piflow"
    try:
        return Path.home() / ".cache" / "piflow"
    except RuntimeError as error:
        raise UsageError("there is no folder for the cache: HOME is not set, and the user has no home", f"name one: {NAME_CACHE}") from error


def cache_folder(named: Path | None, hint: str = f"--cache DIR, or {NAME_CACHE}") -> Path:
    """The folder ``named`` for a cache, or else the user's; ``hint`` is how the command at hand lets it be named.

    Raises UsageError, before anything is computed, where there is none or it cannot be written to.
    """
    try:
        folder = user_cache() if named is None else named
    except UsageError as error:
        raise UsageError(error.message, f"name one: {hint}") from error
    check_writable(folder, hint, "the cache ")
    return folder


def expanded(path: str | Path) -> Path:
    """``path`` with the home folder in place of a leading ~; raises UsageError where nobody has such a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no such home folder", "write the path out, without ~") from error


def check_writable(folder: Path, hint: str = "--output DIR", what: str = "") -> None:
    """Make sure, before anything is computed, that files can be made in ``folder``, which need not be there yet.

    ``hint`` names the option for another folder; ``what`` the folder is, to begin the message with.

    Raises UsageError where a file is in the way, or the system refuses.
    """
    place = folder
    try:
        while not place.exists():
            place = place.parent
    except OSError as error:
        raise UsageError(f"{what}{_shortened(folder)} cannot be a folder: {error.strerror}", f"name another: {hint}") from error
    if not place.is_dir():
        raise UsageError(f"{what}{place} is a file", f"name a folder: {hint}")
    for part in () if place == folder else folder.relative_to(place).parts:
        if len(os.fsencode(part)) > LONGEST_NAME:
            raise UsageError(f"{what}{_shortened(part)} is too long for the name of a folder", f"name another: {hint}")
    try:
        # Tried, because permissions alone do not tell: a file system may be read-only, or none that holds files.
        with tempfile.TemporaryDirectory(dir=place, prefix="."):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(f"{what}{place} cannot be written to: {error.strerror}", f"choose a folder you may write to: {hint}") from error


def _shortened(path: str | Path) -> str:
    text = str(path)
    return text if len(text) <= SHOWN_NAME else f"{text[:SHOWN_NAME]}..."


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
