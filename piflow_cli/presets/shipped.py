"""The presets that are shipped: where they lie and what they are called."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path

from piflow_cli.errors import UsageError


def presets_root() -> Path:
    """The folder of the shipped presets: inside the package once installed, beside it in the source tree."""
    installed = Path(str(files("piflow_cli") / "_presets"))
    return installed if installed.is_dir() else Path(__file__).resolve().parent.parent.parent / "presets"


def available() -> list[str]:
    """Names of the shipped presets, read off the file names."""
    return sorted(path.stem for path in presets_root().glob("*.yaml"))


def preset_path(name_or_path: str | Path, folder: Path = Path(), word: str = "teacher") -> Path:
    """The file of a shipped preset, by its name, or of any other, by its path from ``folder``.

    Raises:
        UsageError: no shipped preset, which the message calls a ``word``, has that name.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
        return folder / name_or_path
    names = available()
    if text not in names:
        close = difflib.get_close_matches(text, names, n=1)
        suggestion = f"did you mean {close[0]}? " if close else ""
        raise UsageError(
            f"no {word} is named {text!r}; known: {', '.join(names)}",
            f"{suggestion}piflow distill --list-teachers describes them",
        )
    return presets_root() / f"{text}.yaml"
