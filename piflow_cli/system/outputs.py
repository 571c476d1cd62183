"""What is there already where a command writes: one rule for all commands.

A folder that is named must be new or empty. Where none is named, the usual one is taken or, if that holds something,
the first of NAME-2, NAME-3, ... that is new or empty. ``--overwrite`` replaces what the same command wrote, and nothing
else is ever replaced.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from itertools import count
from pathlib import Path

from ..errors import UsageError
from .files import TRIAL, check_writable
from .folders import with_a_name

Ours = Callable[[Path], bool]
"""Whether the command itself wrote an entry of its output folder."""


def output_folder(named: Path | None, usual: Path, overwrite: bool = False) -> Path:
    """The folder that a command writes to: ``named``, or else ``usual`` or the next that is free beside it."""
    if named is not None:
        return named
    return usual if overwrite else next_free(usual)


def next_free(folder: Path) -> Path:
    """``folder``, or the first of NAME-2, NAME-3, ... that is new or empty."""
    folder = with_a_name(folder)
    names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
    return next(place for place in names if is_free(place))


def is_free(folder: Path) -> bool:
    """Whether nothing is at ``folder``, or a folder in which nothing is but what a command tries for a moment."""
    if not folder.exists():
        # A link that leads nowhere would be written through.
        return not folder.is_symlink()
    return folder.is_dir() and not entries(folder)


def entries(folder: Path) -> list[Path]:
    """What a folder holds, in the order of names; nothing where it may not be looked into."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(TRIAL))
    except OSError:
        return []


def check_output(folder: Path, overwrite: bool, command: str, ours: Ours, whole: bool = False) -> None:
    """Raise UsageError unless ``command`` may write to ``folder``, and can.

    Args:
        overwrite: what the command wrote there before may go.
        ours: tells that from what stays; it is asked where something may go.
        whole: the folder is made aside, and takes this one's place.
    """
    check_writable(folder)
    if whole:
        _check_replaceable(folder)
    if is_free(folder):
        return
    if not overwrite:
        raise UsageError(
            f"{folder} is not empty",
            "name another folder with --output DIR, or replace what this command left there with --overwrite",
        )
    if (other := next((path for path in entries(folder) if not ours(path)), None)) is not None:
        raise UsageError(
            f"{folder} holds something that {command} did not write: {other.name}", "name another folder: --output DIR"
        )


def _check_replaceable(folder: Path) -> None:
    """Raise UsageError for a folder that no other can take the place of, which would fail when all is made."""
    if os.path.ismount(folder):
        raise UsageError(
            f"{folder} is where a disk is mounted, and cannot be replaced", "name another folder: --output DIR"
        )
    # A shell would stay in the folder that has gone.
    if folder.exists() and folder.samefile(os.curdir):
        raise UsageError(f"{folder} is the current folder, and cannot be replaced", "name another folder: --output DIR")


def clear(folder: Path, ours: Ours, keep: Collection[Path]) -> None:
    """Remove what the command wrote into ``folder`` before, but for ``keep``, which it has written now.

    It comes last: where writing fails, nothing of what was there before is lost.
    """
    for path in [path for path in entries(folder) if path not in keep and ours(path)]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
