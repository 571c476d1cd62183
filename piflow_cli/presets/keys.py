"""Every key that settings may have, and the one that a wrong key was meant to be."""

from __future__ import annotations

import difflib
from dataclasses import fields
from functools import cache

from piflow_cli.presets.schema import SECTIONS, Preset

VARIANTS = "variants"
RECIPES = "recipes"
# Keys that say how a preset's own file is read; they are no settings.
OF_FILES = ("extends", VARIANTS, RECIPES)
# What people call a key, whatever section they have in mind.
COMMON = {
    "lr": "optimisation.learning_rate",
    "steps": "optimisation.iterations",
    "max_steps": "optimisation.iterations",
    "lora_rank": "adapter.rank",
    "cfg": "teacher.guidance",
    "guidance_scale": "teacher.guidance",
    "k": "policy.components",
}


@cache
def known_keys() -> tuple[str, ...]:
    """Every key a preset may hold, sections as section.key."""
    top = [field.name for field in fields(Preset) if field.name not in SECTIONS]
    return (*top, *(f"{name}.{field.name}" for name, section in SECTIONS.items() for field in fields(section)))


def nearest(key: str) -> str | None:
    """The known key a wrong one was probably meant to be: the closest spelling in its section, else in any."""
    section, _, name = key.rpartition(".")
    if (common := COMMON.get(name.lower())) is not None:
        return common
    own = [known for known in known_keys() if known.rpartition(".")[0] == section]
    for candidates in ([*own, *SECTIONS, *OF_FILES] if not section else own, known_keys()):
        names = {known.rpartition(".")[2]: known for known in candidates}
        close = difflib.get_close_matches(name.lower(), names, n=1)
        if close:
            return names[close[0]]
    return None
