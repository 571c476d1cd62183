"""The one walk through a folder of pictures, for training and for evaluation."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UsageError


def files_below(folder: Path) -> list[Path]:
    """All files in ``folder`` and its sub-folders, sorted; names that begin with a dot are left out, folders and files.

    Symbolic links are followed, but for one that leads back into a folder that it is in. One that leads nowhere, or to
    itself, is among the files: reading it says so. Raises UsageError where a folder may not be looked into.
    """
    return sorted(_below(folder, frozenset({_identity(folder)})))


def _below(folder: Path, above: frozenset[tuple[int, int]]) -> list[Path]:
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be looked into: {error.strerror}",
            "give yourself the right to read it, or move it elsewhere",
        ) from error
    found: list[Path] = []
    for entry in entries:
        path = Path(entry.path)
        if entry.is_symlink() and not path.exists():
            found.append(path)
        elif entry.is_dir():
            identity = _identity(path)
            found += [] if identity in above else _below(path, above | {identity})
        elif entry.is_file():
            found.append(path)
    return found


def _identity(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino
