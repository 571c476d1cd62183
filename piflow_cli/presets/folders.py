"""The folders of presets: ours, and those of other packages with a family of teachers."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path
from shlex import quote

from piflow_cli.errors import UsageError
from piflow_cli.presets.families import usable_families
from piflow_cli.presets.places import expanded

SHIPPED_PREFIX = "preset:"


def presets_root() -> Path:
    """The folder of the shipped presets: inside the package once installed, beside it in the source tree."""
    installed = Path(str(files("piflow_cli") / "_presets"))
    return installed if installed.is_dir() else Path(__file__).resolve().parent.parent.parent / "presets"


def preset_folders() -> tuple[Path, ...]:
    """Ours, then those of other packages."""
    others = (family.presets for family in usable_families())
    return (presets_root(), *dict.fromkeys(folder for folder in others if folder is not None))


def available() -> list[str]:
    """Names of all presets, read off the file names: ours first, and sorted in each folder."""
    names = (name for folder in preset_folders() for name in sorted(path.stem for path in folder.glob("*.yaml")))
    return list(dict.fromkeys(names))


def preset_file(name: str) -> Path:
    """The file of one of the :func:`available` presets."""
    return beside_presets(f"{name}.yaml")


def beside_presets(name: str) -> Path:
    """The file or folder ``name`` beside our presets, or else beside those of another package."""
    places = [folder / name for folder in preset_folders()]
    return next((place for place in places if place.exists()), places[0])


def preset_path(name_or_path: str | Path, folder: Path = Path(), word: str = "teacher") -> Path:
    """The file of one of the :func:`available` presets, by its name, or of any other, by its path from ``folder``.

    Raises:
        UsageError: no preset, which the message calls a ``word``, has that name, or nobody has the home that ~ names.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
        path = folder / expanded(name_or_path)
        if path.is_dir():
            raise UsageError(f"{path} is a folder, and no {word}'s file", _file_hint(path))
        return path
    names = available()
    if text not in names:
        close = difflib.get_close_matches(text.lower(), names, n=1)
        suggestion = f"did you mean {close[0]}? " if close else ""
        raise UsageError(
            f"no {word} is named {text!r}; known: {', '.join(names)}",
            f"{suggestion}piflow distill --list-teachers describes them",
        )
    return preset_file(text)


def _file_hint(folder: Path) -> str:
    """What to type in the place of a ``folder``: a file of settings in it, or a preset, and the folder as its base."""
    files = sorted(folder.glob("*.yaml"))
    if files:
        return f"type --teacher {quote(str(files[0]))}"
    return f"name a preset and the weights apart: --teacher NAME --base {quote(str(folder))}"
