"""Packages that commands use where they are installed."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from ..errors.table import INSTALL_HINTS
from .findings import Finding, broken, missing, short_line, works


def package(module: str, published: str, loads: bool) -> Finding:
    """A package by the name it is imported by and the name it is published under.

    ``loads``: it is imported too, since it is built for one torch, and another may be beside it.
    """
    hint = INSTALL_HINTS.get(module, f"pip install {published}")
    if find_spec(module) is None:
        return missing("not installed", hint)
    number = _version(published)
    said, facts = number or "installed", {"version": number}
    try:
        if loads:
            import_module(module)
    except Exception as error:
        return broken(
            f"{said} does not import: {short_line(error)}", f"install it again, beside this torch: {hint}", facts
        )
    return works(said, facts)


def _version(published: str) -> str | None:
    try:
        return version(published)
    except PackageNotFoundError:
        return None
