"""Places in an export, without anything of the machine that made it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from ..presets.folders import SHIPPED_PREFIX
from ..weights.locate import hub_id

if TYPE_CHECKING:
    from ..students.facts import StudentFacts


def is_of_this_machine(place: str) -> bool:
    """Whether a base or VAE is a path, which means nothing elsewhere."""
    return place != "" and not place.startswith(SHIPPED_PREFIX) and hub_id(place) is None


def portable_place(place: str) -> str:
    """``place`` as others may read it; of a path the last part alone."""
    return f"./{PurePath(place).name}" if is_of_this_machine(place) else place


def portable(facts: StudentFacts) -> StudentFacts:
    """The facts of a student without paths of this machine."""
    return replace(facts, base=portable_place(facts.base), vae=portable_place(facts.vae))
