"""Writing aside and renaming, so that no file is ever half, whatever kills the process or the power."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import UsageError
from ..wording import shortened
from .exchange import exchange
from .folders import in_folder, sync_file, sync_folder

KEY_LENGTH = 32
CHUNK = 1 << 24  # bytes
TRIAL = ".trial-"  # begins the name of what is made for a moment, to see that a folder takes files
_ASIDE = re.compile(r"\.(.+)\.[0-9a-z_]+\.(?:tmp|old)")
# Bytes of the name of a file or folder: file systems take 255, and names are written aside with a suffix.
LONGEST_NAME = 200
NAME_CACHE = "export XDG_CACHE_HOME=DIR"


def user_cache(named: Path | None = None) -> Path:
    """The cache folder of piflow: ``named``, or else ``piflow`` in XDG_CACHE_HOME or ~/.cache.

    Raises UsageError where none of them is known: the variable is not set, and the user has no home.
    """
    if named is not None:
        return named
    told = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has relative paths ignored.
    if told.is_absolute():
        return told / "piflow"
    try:
        return Path.home() / ".cache" / "piflow"
    except RuntimeError as error:
        raise UsageError(
            "there is no folder for the cache: HOME is not set, and the user has no home", f"name one: {NAME_CACHE}"
        ) from error


def cache_folder(named: Path | None, hint: str = f"--cache DIR, or {NAME_CACHE}") -> Path:
    """The folder ``named`` for a cache, or else the user's; ``hint`` is how the command at hand lets it be named.

    Raises UsageError, before anything is computed, where there is none or it cannot be written to.
    """
    try:
        folder = user_cache(named)
    except UsageError as error:
        raise UsageError(error.message, f"name one: {hint}") from error
    check_writable(folder, hint, "the cache ")
    return folder


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
        raise UsageError(
            f"{what}{shortened(folder)} cannot be a folder: {error.strerror}", f"name another: {hint}"
        ) from error
    # The folder that was named comes first, and then what is there of it.
    if not place.is_dir():
        inside = "" if place == folder else f"{folder} cannot be made: "
        raise UsageError(f"{what}{inside}{place} is a file", f"name a folder: {hint}")
    for part in () if place == folder else folder.relative_to(place).parts:
        if len(os.fsencode(part)) > LONGEST_NAME:
            raise UsageError(f"{what}{shortened(part)} is too long for the name of a folder", f"name another: {hint}")
    try:
        # A file is made, since permissions alone do not tell: a file system may be read-only, or hold no files.
        with tempfile.TemporaryDirectory(dir=place, prefix=TRIAL):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        # "No such file" where a folder takes none, as in /proc, would be read as if it were not there.
        reason = "no files can be made in it" if error.errno == errno.ENOENT else str(error.strerror)
        fault = f"{place} cannot be written to: {reason}"
        raise UsageError(
            f"{what}{fault}" if place == folder else f"{what}{folder} cannot be made: {fault}",
            f"choose a folder you may write to: {hint}",
        ) from error


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
    """Whether a name is that of a file in its own folder, and does not lead out of it."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0:")


@contextmanager
def replacing_file(path: Path) -> Generator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and is removed when it does not.

    When the block has ended, the file stays under its name whatever happens to the power. When it fails, folders that
    were made for the file go too.
    """
    aside = _aside(path, "tmp")
    with in_folder(path.parent):
        try:
            yield aside
            sync_file(aside)
            os.replace(aside, path)
            sync_folder(path.parent)
        except OSError as error:
            if error.filename is None and error.errno is not None:
                # The writer's error did not name the file.
                error.filename = str(path)
            raise
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Generator[Path]:
    """A temporary folder that takes the place of ``path`` when the block ends well, and is removed when it does not.

    Where the system can exchange two folders, there is always one at ``path`` that is whole; elsewhere :func:`recover`
    puts back what a process that was killed in between has left. What was synchronised here survives a power cut.
    When the block fails, folders that were made for this one go too.
    """
    aside = _aside(path, "tmp")
    with in_folder(path.parent):
        aside.mkdir()
        try:
            yield aside
            _sync_tree(aside)
            if not path.exists():
                os.rename(aside, path)
            elif not exchange(aside, path):
                _swap(aside, path)
            sync_folder(path.parent)
        finally:
            _clear(aside)


def remove_folder(path: Path) -> None:
    """Remove a folder so that a crash never leaves half of it; raises OSError where the system refuses."""
    aside = _aside(path, "tmp")
    os.rename(path, aside)
    # Otherwise its old name might come back after a power cut, to a part of what was in it.
    sync_folder(path.parent)
    shutil.rmtree(aside)


def recover(folder: Path, ours: re.Pattern[str]) -> list[Path]:
    """Clear away what killed writers left in ``folder``; none may be at work there.

    Only what stood aside of names that match ``ours`` in full is touched. What was moved out of the way of a successor
    that never came goes back, and is returned.
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
    """The name for which ``path`` was written aside, if it matches ``ours`` in full; None for any other."""
    found = _ASIDE.fullmatch(path.name)
    return None if found is None or ours.fullmatch(found[1]) is None else found[1]


def _aside(path: Path, kind: str) -> Path:
    """A name beside ``path`` that nobody else has: process numbers repeat between containers that share a folder."""
    name = path.name.encode()[:LONGEST_NAME].decode(errors="ignore")
    return path.with_name(f".{name}.{secrets.token_hex(8)}.{kind}")


def _clear(path: Path) -> None:
    """Remove what no reader needs any more; a failure is ignored."""
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


def identity_of(files: Iterable[Path]) -> str:
    """The identity of ``files`` without reading them: their paths, lengths and times of change."""
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def identity_of_place(place: Path) -> str:
    """``identity_of`` a file, or of all files below a folder."""
    return identity_of([place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()])
