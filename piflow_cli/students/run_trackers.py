"""By what trackers know a run, so that a start after the first goes on with the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..system.files import replacing_file

TRACKERS_NAME = "trackers.json"


def write_identities(folder: Path, known: Mapping[str, str]) -> None:
    """Record what the trackers of the run in ``folder`` call it: tracker → identity."""
    with replacing_file(folder / TRACKERS_NAME) as aside:
        aside.write_text(json.dumps(known) + "\n", encoding="utf-8")


def read_identities(folder: Path) -> dict[str, str]:
    """What :func:`write_identities` has recorded; nothing where the record is missing or damaged."""
    try:
        found = json.loads((folder / TRACKERS_NAME).read_text(encoding="utf-8"))
        return {str(name): str(own) for name, own in found.items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}
