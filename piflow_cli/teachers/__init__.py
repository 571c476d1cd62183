"""Teachers: one file a family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from .base import TeacherFamily


def families() -> dict[str, type[TeacherFamily]]:
    """Every family by the name that presets use."""
    from .dit import DiTFamily
    from .flux import FluxFamily
    from .flux2 import Flux2Family, Flux2KleinFamily
    from .qwen import QwenImageFamily
    from .z_image import ZImageFamily

    known = (DiTFamily, FluxFamily, Flux2Family, Flux2KleinFamily, QwenImageFamily, ZImageFamily)
    return {family.name: family for family in known}


def family_of(name: str, guidance: float = 1.0) -> TeacherFamily:
    """The family called ``name``, whose networks are told ``guidance`` if they take
    it; raises UsageError for an unknown one."""
    known = families()
    if name not in known:
        raise UsageError(f"unknown model family '{name}'", f"families: {', '.join(known)}")
    return known[name](guidance)
