"""From what a preset calls the base to a folder on this machine."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..presets import presets_root

SHIPPED_PREFIX = "preset:"


def locate(base: str) -> Path:
    """The folder, or file, of ``base``: ``preset:NAME`` is shipped with piflow, anything else a local path.

    Raises UsageError where nothing is there.
    """
    path = presets_root() / base.removeprefix(SHIPPED_PREFIX) if base.startswith(SHIPPED_PREFIX) else Path(base)
    if not path.exists():
        raise UsageError(f"there is nothing at {path}, which the preset calls {base}", "name a folder: --set teacher.base=DIR")
    return path
