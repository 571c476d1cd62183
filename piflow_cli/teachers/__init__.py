"""Teachers: one file for each family, and its row in :mod:`piflow_cli.presets.families`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from ..packages import object_at
from ..presets.families import family_kind, family_names, usable_families

if TYPE_CHECKING:
    from .base import TeacherFamily


def families() -> dict[str, type[TeacherFamily]]:
    """The class of every family that can be used, by the name that presets use."""
    return {family.name: object_at(family.family) for family in usable_families()}


def family_of(name: str, guidance: float = 1.0, guidance_2: float | None = None) -> TeacherFamily:
    """The family ``name``, with ``guidance`` for networks or pipelines that take it, and that of a second network.

    Raises UsageError for an unknown one.
    """
    if name not in family_names():
        raise UsageError(f"unknown model family '{name}'", f"families: {', '.join(family_names())}")
    return _class_of(name)(guidance, guidance_2)


def _class_of(name: str) -> type[TeacherFamily]:
    return object_at(family_kind(name).family)
