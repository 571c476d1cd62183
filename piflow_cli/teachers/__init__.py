"""Teachers: one file a family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from .base import TeacherFamily


def families() -> dict[str, type[TeacherFamily]]:
    """Every family by the name that presets use."""
    from .dit import DiTFamily

    return {family.name: family for family in (DiTFamily,)}


def family_of(name: str) -> TeacherFamily:
    """The family called ``name``; raises UsageError for an unknown one."""
    known = families()
    if name not in known:
        raise UsageError(f"unknown model family '{name}'", f"families: {', '.join(known)}")
    return known[name]()
