"""The commands that advice offers."""

from __future__ import annotations

import re
from collections.abc import Callable

AdviceParts = tuple[str, str, str]
"""A name for programs, what was seen, and what to type."""
SettingOf = Callable[[str, float], float]
"""A dotted key of the student's preset, and a value for where the preset is not at hand."""


OPTION = re.compile("--(?:set|iterations) ")


def distilled_again(remedy: str, command: str) -> str:
    """``remedy`` with the ``command`` that trains such a student before the first of its options."""
    return OPTION.sub(lambda found: f"{command} {found[0]}", remedy, count=1)


def set_key(key: str, value: float) -> str:
    """The option that sets a key of the preset."""
    return f"--set {key}={value:g}"


def more_dropout(setting: SettingOf) -> str:
    """The option for twice the dropout of components, from 0.05 to 0.5."""
    return set_key("imitation.dropout", min(0.5, max(0.05, 2 * setting("imitation.dropout", 0.05))))


def longer(setting: SettingOf) -> str:
    """The options for twice the training."""
    # A run whose rate follows a cosine cannot be made longer afterwards.
    iterations = 2 * int(setting("optimisation.iterations", 10_000))
    return f"train for longer: --iterations {iterations}"
