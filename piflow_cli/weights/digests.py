"""Digests of what piflow ships, keeps and writes, by which a changed byte is noticed.

Digests of files are in a list beside them; a file of tensors carries one of all its content in its metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RunError
from ..presets.folders import presets_root
from ..system.files import files_digest

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "SHA256SUMS"
AGAIN = "install it again: pip install --force-reinstall piflow"


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """List the SHA-256 of files of ``folder``, as `sha256sum -c` reads it."""
    lines = [f"{files_digest([folder / name])}  {name}\n" for name in sorted(names)]
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, str]:
    """SHA-256 of the files in a folder's list, by name; raises OSError and ValueError where there is no such list."""
    found = {}
    for line in (folder / MANIFEST).read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ", 1)
        found[name] = digest
    return found


def changed_files(folder: Path) -> list[str]:
    """The files of a folder's list that are missing or changed; raises as :func:`read_manifest` does."""
    listed = read_manifest(folder).items()
    return [name for name, digest in listed if not (folder / name).is_file() or files_digest([folder / name]) != digest]


def is_whole(folder: Path) -> bool:
    """Whether a folder has a list, and every file on it is unchanged."""
    try:
        return bool(read_manifest(folder)) and not changed_files(folder)
    except (OSError, ValueError):
        return False


def check_shipped(paths: Iterable[Path]) -> None:
    """Raise RunError for the first of ``paths``, files below the presets, that was changed, or for a damaged list.

    Files of other packages are not on the list.
    """
    root = presets_root()
    listed = _shipped(root)
    for path in (path for path in paths if path.is_relative_to(root)):
        if files_digest([path]) != listed.get(path.relative_to(root).as_posix()):
            raise RunError(f"{path} is damaged: it is not the file that came with piflow", AGAIN)


def shipped_digest(folder: Path, patterns: Iterable[str]) -> str | None:
    """SHA-256 over the list of the shipped files in ``folder`` that any of ``patterns`` takes; None for others."""
    root = presets_root()
    if not folder.is_relative_to(root):
        return None
    inside = f"{folder.relative_to(root).as_posix()}/"
    taken = [f"{inside}{pattern}" for pattern in patterns]
    listed = sorted(_shipped(root).items())
    lines = [f"{digest}  {name}" for name, digest in listed if any(fnmatch(name, pattern) for pattern in taken)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@cache
def _shipped(root: Path) -> dict[str, str]:
    try:
        return read_manifest(root)
    except (FileNotFoundError, ValueError) as error:
        raise RunError(f"{root / MANIFEST}, the list of what came with piflow, is missing or damaged", AGAIN) from error


def tensors_digest(metadata: Mapping[str, str], names: Iterable[str], read: Callable[[str], Tensor]) -> str:
    """SHA-256 over ``metadata`` and the tensors ``names`` (name, dtype, shape, bytes), in any order.

    ``read`` gives a tensor by its name; one is in memory at a time.
    """
    import torch

    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(names):
        value = read(name).detach().cpu().contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        # numpy knows no bfloat16, and every dtype has bytes.
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
