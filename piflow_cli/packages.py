"""Rows that other packages bring to our tables, by an entry point name = "module:ROW"."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from .errors import RunError

AnyRow = TypeVar("AnyRow")


def object_at(place: str) -> Any:
    """The object NAME of a module, from "module:NAME"; imports the module."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


@cache
def _points(group: str) -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def outside_names(group: str) -> tuple[str, ...]:
    """The names of the rows that other packages list under ``group``, sorted; none of them is imported."""
    return tuple(sorted(_points(group)))


@cache
def outside_row(group: str, name: str, kind: type[AnyRow]) -> AnyRow:
    """The row called ``name`` that another package lists under ``group``.

    Raises RunError, which names the package, where it cannot be imported, or is no ``kind`` of that name; KeyError
    where there is none.
    """
    point = _points(group)[name]
    package = "the package" if point.dist is None else point.dist.name
    hint = f"install another version of {package}, or remove it: pip uninstall {package}"
    try:
        row = point.load()
    except Exception as error:
        # Whatever a stranger's module raises is of that module, and no command of ours is to end in a traceback.
        raise RunError(f"{package} brings {name} as {point.value}, which cannot be imported: {error}", hint) from error
    if not isinstance(row, kind) or getattr(row, "name", None) != name:
        raise RunError(f"{package} brings {name} as {point.value}, which is no {kind.__name__} of that name", hint)
    return row
