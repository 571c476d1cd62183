"""The folder of a report: the files of an earlier report, and writing a new one so that no file is half."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from ..console import dumps
from ..errors import UsageError
from ..system.files import files_digest, replacing_file
from ..system.folders import sync_file

NUMBERS, PAGE = "report.json", "report.html"
NAMES = (NUMBERS, PAGE, "quality.png", "error.png", "samples.png")


def check_report_folder(folder: Path) -> None:
    """Raise UsageError where ``folder`` holds a file by the name of one of a report's that no earlier report wrote."""
    earlier = _earlier_files(folder)
    for name in NAMES:
        # A link counts, wherever it leads: renaming would take its place.
        if name not in earlier and ((folder / name).exists() or (folder / name).is_symlink()):
            message = f"{folder / name} is not of piflow eval, and a report would take its place"
            raise UsageError(message, "name another folder: --output DIR")


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
