"""Paths in a preset, written so that they mean the same from every folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_cli.errors import UsageError
from piflow_cli.presets.lora_texts import split_lora, written_lora

if TYPE_CHECKING:
    from piflow_cli.presets.schema import Preset

# Each may also name something on the Hub, or shipped with piflow.
TEACHER_KEYS = ("base", "config", "vae")
DATA_KEYS = ("images", "prompts", "captioned")
PROMPT_FILES = (".txt", ".jsonl", ".csv", ".parquet")


def with_full_paths(preset: Preset) -> Preset:
    """``preset`` with the paths of what is on this machine in full; what is not there stays as it is.

    A run records them, and its student is opened from elsewhere, where a short path might read like a stranger's
    repository.
    """
    teacher: dict[str, Any] = {key: _full(getattr(preset.teacher, key)) for key in TEACHER_KEYS}
    loras = [split_lora(text) for text in preset.teacher.loras]
    teacher["loras"] = tuple(written_lora(str(_full(path)), scale) for path, scale in loras)
    data = {key: _full(getattr(preset.data, key)) for key in DATA_KEYS}
    # It need not be there yet.
    data["cache"] = None if preset.data.cache is None else str(expanded(preset.data.cache))
    return replace(preset, teacher=replace(preset.teacher, **teacher), data=replace(preset.data, **data))


def expanded(path: str | Path) -> Path:
    """``path`` with the home folder in place of a leading ~; raises UsageError where nobody has such a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no such home folder", "write the path out, without ~") from error


def _full(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        path = Path(text).expanduser()
        return str(path.absolute()) if path.exists() else text
    except (OSError, RuntimeError, ValueError):
        # No home, a name that is too long, or one that no file can have: what opens it says so.
        return text
