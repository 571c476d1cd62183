"""Runs near to a path that is not there, one of which may have been meant."""

from __future__ import annotations

import os
from contextlib import suppress
from difflib import SequenceMatcher
from pathlib import Path

from .runs import RunFolder

# Where `piflow distill` puts runs that are given no folder.
USUAL = Path("runs")


def runs_near(path: Path) -> list[Path]:
    """Folders of finished runs beside ``path`` or, where there are none, in runs/; the one whose name is nearest first.

    Of a path inside a run it is that run.
    """
    around = next((folder for folder in path.parents if os.path.isdir(folder)), Path())
    if run := next((folder for folder in (around, *around.parents) if _is_finished(folder)), None):
        return [run]
    for folder in (around, USUAL):
        found: list[Path] = []
        # One that may not be looked into holds none that could be sampled.
        with suppress(OSError):
            found = sorted(run for run in folder.iterdir() if _is_finished(run))
        if found:
            return sorted(found, key=lambda run: -SequenceMatcher(None, run.name, path.name).ratio())
    return []


def _is_finished(folder: Path) -> bool:
    run = RunFolder(folder)
    return os.path.isfile(run.settings) and os.path.isdir(run.adapter)
