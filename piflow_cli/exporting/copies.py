"""Copies of a base's files: data for diffusers and transformers, no code, nothing from outside the base."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..system.files import is_plain_name

LIBRARIES = ("diffusers", "transformers")
# Weights, configs, and the vocabularies and templates of tokenizers.
SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".tiktoken", ".jinja")
CODE_ENTRY = "auto_map"
_NAME = re.compile(r"[A-Za-z]\w*")


def read_index(path: Path) -> dict[str, Any]:
    """A pipeline's index; raises UsageError for names, libraries or values that no stock pipeline has."""
    try:
        index = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{path} is no index of a pipeline", "copy it again, or name another base: --base PATH"
        ) from error
    for name, value in index.items():
        if fault := _fault(name, value):
            hint = "an export carries parts of diffusers and transformers alone; name another base: --base PATH"
            raise UsageError(f"{path}: {fault}", hint)
    return index


def is_part(value: Any) -> bool:
    """Whether an entry of an index is a part, by its library and class, both null where it is absent, or a setting."""
    return isinstance(value, list) and len(value) == 2 and (value[0] is None or isinstance(value[0], str))


def _fault(name: str, value: Any) -> str | None:
    if name.startswith("_"):
        return None
    if not _NAME.fullmatch(name):
        return f"{name!r} is no name of a part"
    if value is None or isinstance(value, bool | int | float | str):
        return None
    if isinstance(value, list) and value and all(isinstance(entry, int | float) for entry in value):
        return None
    if not is_part(value):
        return f"{name} is {value!r}, neither a setting nor a library and a class"
    if value == [None, None]:
        return None
    if value[0] not in LIBRARIES or not isinstance(value[1], str) or not _NAME.fullmatch(value[1]):
        return f"{name} is of {value[0]!r} {value[1]!r}, no class of {' or '.join(LIBRARIES)}"
    return None


def copy_part(source: Path, folder: Path, base: Path) -> list[str]:
    """Copy the part ``source`` of ``base`` to the new ``folder``; returns names, in ``source``, that were left out.

    Raises UsageError for a link that leads out of the base, a name that does, or a config that names code.
    """
    roots, left = _roots(base), []
    for file in _files(source, roots):
        relative = file.relative_to(source)
        if file.suffix not in SUFFIXES:
            left.append(relative.as_posix())
            continue
        if file.suffix == ".json" and _names_code(file):
            what = f"{file} names code of its own ({CODE_ENTRY}), which an export does not carry"
            raise UsageError(what, "name another base: --base PATH")
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    folder.mkdir(parents=True, exist_ok=True)
    return left


def _files(folder: Path, roots: tuple[Path, ...]) -> Iterator[Path]:
    """The files below a folder, hidden ones left out."""
    _check_inside(folder, roots)
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not is_plain_name(entry.name):
            raise UsageError(f"{entry} has a name that other systems read as a path", "rename it")
        _check_inside(entry, roots)
        if entry.is_dir():
            yield from _files(entry, roots)
        elif entry.is_file():
            yield entry


def _check_inside(entry: Path, roots: tuple[Path, ...]) -> None:
    if not any(entry.resolve().is_relative_to(root) for root in roots):
        raise UsageError(
            f"{entry} leads out of the base, to {entry.resolve()}", "put the file itself there, or leave it out"
        )


def _roots(base: Path) -> tuple[Path, ...]:
    """Folders in which files of ``base`` may lie: itself, and for a snapshot the blobs of the Hub's cache."""
    place = base.resolve()
    snapshots = [folder for folder in (place, *place.parents) if folder.name == "snapshots"]
    return (place, *(folder.parent / "blobs" for folder in snapshots))


def _names_code(file: Path) -> bool:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(told, Mapping) and CODE_ENTRY in told
