"""``house.md``: the rooms of the package by floor, with a line for every file, from pyproject.toml and the files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from package_source import tree_of
from project_file import ROOT, TOOLS

PACKAGE = ROOT / "piflow_cli"


def house(made: str) -> str:
    """The page; ``made`` says what made it."""
    [floors] = [contract["layers"] for contract in TOOLS["importlinter"]["contracts"] if contract["type"] == "layers"]
    parts = [
        "# The house",
        f"{made}\nThe floors are those of `pyproject.toml`, the lines those at the head of the files.",
        "Rooms lie on floors, and imports run down only. A room is one noun, and a file has one subject.\n"
        "[A teacher, a policy, a metric](adding.md) says which table gets a row where a thing is added.",
        "## Floors",
        "From the roof down; rooms of one floor stand beside each other.",
        "\n".join(f"{number}. {_rooms(floor)}" for number, floor in enumerate(floors, 1)),
    ]
    for name in (room for floor in floors for room in _names(floor)):
        place = PACKAGE / name
        if place.is_dir():
            parts += [f"## {name}", _about(place / "__init__.py", whole=True), "\n".join(_lines(place))]
    loose = sorted(path for path in PACKAGE.glob("*.py") if path.name != "__init__.py")
    parts += ["## Files beside the rooms", "\n".join(_line(path, PACKAGE) for path in loose)]
    return "\n\n".join(parts) + "\n"


def _names(floor: str) -> list[str]:
    return [name.strip() for name in floor.replace("|", ":").split(":")]


def _rooms(floor: str) -> str:
    return ", ".join(f"[{name}](#{name})" if (PACKAGE / name).is_dir() else f"`{name}`" for name in _names(floor))


def _lines(room: Path) -> Iterator[str]:
    """A line for each file of a room, those of its inner rooms behind them."""
    paths = [path for path in room.rglob("*.py") if path != room / "__init__.py"]
    for path in sorted(paths, key=lambda path: (len(path.relative_to(room).parts), path)):
        yield _line(path, room)


def _line(path: Path, room: Path) -> str:
    name = path.parent if path.name == "__init__.py" else path.with_suffix("")
    return f"- `{name.relative_to(room).as_posix()}`: {_about(path)}"


def _about(path: Path, whole: bool = False) -> str:
    """What a file says of itself: its first line, or all of it."""
    text = ast.get_docstring(tree_of(path)) or ""
    return _plain(text if whole else text.partition("\n\n")[0].replace("\n", " "))


def _plain(text: str) -> str:
    """reStructuredText's marks as Markdown has them."""
    return text.replace(":mod:", "").replace("``", "`").replace("*", "\\*")
