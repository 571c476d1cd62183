"""Digests of files that piflow ships or keeps, in a list beside them: a byte that has changed since is noticed when a file is read."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from .errors import RunError
from .files import files_digest
from .presets import presets_root

MANIFEST = "SHA256SUMS"


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """List the SHA-256 of files of ``folder``, as `sha256sum -c` reads it."""
    lines = [f"{files_digest([folder / name])}  {name}\n" for name in sorted(names)]
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that a folder lists, by their names; raises OSError and ValueError where there is no such list."""
    found = {}
    for line in (folder / MANIFEST).read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ", 1)
        found[name] = digest
    return found


def is_whole(folder: Path) -> bool:
    """Whether a folder has a list, and every file on it is as it was listed."""
    try:
        listed = read_manifest(folder)
        return bool(listed) and all(files_digest([folder / name]) == digest for name, digest in listed.items())
    except (OSError, ValueError):
        return False


def check_shipped(paths: Iterable[Path]) -> None:
    """Raise RunError for the first of ``paths``, files below the presets, that is not the one that was shipped."""
    root = presets_root()
    listed = _shipped(root)
    for path in paths:
        if files_digest([path]) != listed.get(path.relative_to(root).as_posix()):
            what = f"{path} is damaged: it is not the file that came with piflow"
            raise RunError(what, "install it again: pip install --force-reinstall piflow")


@cache
def _shipped(root: Path) -> dict[str, str]:
    return read_manifest(root)
