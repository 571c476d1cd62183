"""The versions that a run was computed with, so that a start with others is told that numbers may differ."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from piflow_cli import __version__

from ..system.files import replacing_file

VERSIONS_NAME = "versions.json"
PACKAGES = ("torch", "diffusers", "peft", "accelerate", "transformers")


def versions_here() -> dict[str, str | None]:
    """The versions of what computes a run, None for what is not installed; nothing is imported."""

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {"piflow": __version__, **{name: installed(name) for name in PACKAGES}}


def other_versions(run: Path) -> str | None:
    """A line on the versions that have changed since the start before this one; None where none has, or none is known.

    A record that is damaged is written again by the next start, and tells nothing.
    """
    try:
        before = json.loads((run / VERSIONS_NAME).read_text(encoding="utf-8"))
        changed = [
            f"{name} was {before[name]}, is {now}" for name, now in versions_here().items() if before[name] != now
        ]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if not changed:
        return None
    return f"{run} goes on with other versions, and its numbers may differ slightly: {', '.join(changed)}"


def write_versions(run: Path) -> None:
    """Record the versions of this start."""
    with replacing_file(run / VERSIONS_NAME) as aside:
        aside.write_text(json.dumps(versions_here(), indent=1) + "\n", encoding="utf-8")
