"""The folder of a report: the files of an earlier report, and writing a new one so that no file is half."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path

from ..console import dumps
from ..reports.recipes import recipe_of
from ..system.files import files_digest, replacing_file, stood_aside
from ..system.folders import remove_empty, sync_file
from ..system.outputs import clear, entries

NUMBERS, PAGE = "report.json", "report.html"
NAMES = (NUMBERS, PAGE, "quality.png", "error.png", "samples.png")
IMAGES = "images"  # the folder of pictures that were asked for besides
_WRITTEN, _PICTURE = re.compile(r"[a-z]+\.[a-z]+"), re.compile(r"[\d-]+\.(png|gif)")


def is_of_report(path: Path) -> bool:
    """Whether `piflow eval` wrote an entry of its output folder: a file of its report, or the folder of pictures."""
    if path.name == IMAGES and path.is_dir() and not path.is_symlink():
        return all(_is_picture(found) for found in path.rglob("*") if not found.is_dir())
    if (of := stood_aside(path, _WRITTEN)) is not None:
        return of in NAMES
    return path.name in _earlier_files(path.parent)


def _is_picture(path: Path) -> bool:
    if path.is_dir():
        return False
    return stood_aside(path, _PICTURE) is not None or recipe_of(path) is not None


def clear_pictures(folder: Path, keep: Collection[Path]) -> None:
    """Remove the pictures that an earlier report has beside it, but for ``keep``, which are of this one."""
    images = folder / IMAGES
    for place in [*entries(images), images] if images.is_dir() else []:
        clear(place, _is_picture, keep)
        remove_empty([place])


def write_files(folder: Path, numbers: Mapping[str, object], files: Mapping[str, bytes]) -> None:
    """Write ``numbers`` as JSON, which names the other ``files``, and those: all aside first, then each to its place.

    What an earlier report wrote and this one does not is removed, unless it was changed since.
    """
    earlier = _earlier_files(folder)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    told = (dumps({**numbers, "files": digests}) + "\n").encode()
    with ExitStack() as stack:
        # The blocks end in reverse order, so that the file which lists ours comes into its place first.
        for name, content in {**files, NUMBERS: told}.items():
            aside = stack.enter_context(replacing_file(folder / name))
            aside.write_bytes(content)
            # A disk that is full says so here at the latest, before any of them has its name.
            sync_file(aside)
    for name, digest in earlier.items():
        path = folder / name
        if name not in files and name != NUMBERS and path.is_file() and digest in (None, files_digest([path])):
            path.unlink()


def _earlier_files(folder: Path) -> dict[str, str | None]:
    """The files of the report in ``folder`` and their SHA-256, or None where it has none recorded."""
    try:
        told = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(told, dict) or not {"results", "trajectory", "notes"} <= told.keys():
        return {}
    files = told.get("files")
    if not isinstance(files, dict):
        # piflow 0.1 did not tell.
        files = dict.fromkeys(NAMES)
    return {NUMBERS: None, **{name: digest for name, digest in files.items() if name in NAMES}}
