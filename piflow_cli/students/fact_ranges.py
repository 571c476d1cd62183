"""Bounds of a student's facts: beyond them sampling hangs, fails or shows noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..core.policies.kinds import policy_kind, policy_names
from ..presets import bounds
from ..presets.types import as_temperature

LONGEST = 4096  # characters: a path of the system is no longer
DTYPES = ("float32", "bfloat16")


def _within(low: float, high: float, open_below: bool = False) -> tuple[Callable[[Any], bool], str]:
    words = f"above {low:g} and at most {high:g}" if open_below else f"from {low:g} to {high:g}"
    return lambda value: math.isfinite(value) and (low < value if open_below else low <= value) and value <= high, words


def _is_text(value: str) -> bool:
    return len(value) <= LONGEST and value.isprintable()


def _is_temperature(value: str) -> bool:
    try:
        as_temperature(value if value == "auto" else float(value))
    except ValueError:
        return False
    return True


TEXT = (_is_text, "printable text")
RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "teacher": (lambda value: value != "" and _is_text(value), "a name"),
    **dict.fromkeys(("family", "base", "revision", "vae", "version"), TEXT),
    "policy": (lambda value: value in policy_names(), f"one of {', '.join(policy_names())}"),
    "components": _within(1, bounds.COMPONENTS.most),
    "nfe": _within(1, bounds.EVALUATIONS.most),
    "shift": _within(0, bounds.SHIFT.most, open_below=True),
    "final_step_scale": _within(0, 1, open_below=True),
    "segment": _within(0, 1, open_below=True),
    "substeps": _within(1, bounds.SUBSTEPS.most),
    "guidance": _within(0, bounds.GUIDANCE.most),
    "temperature": (_is_temperature, "auto or a number above 0 and at most 1"),
    "logstd_width": _within(1, bounds.WIDTH.most),
    "iterations": _within(0, 10**12),
    # Whoever reads them checks them.
    "teacher_loras": (lambda value: True, ""),
    "base_dtype": (lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
}


def out_of_range(values: Mapping[str, Any]) -> Iterator[str]:
    """A line for each of ``values``, facts by their names, that is out of its bounds."""
    for name, value in values.items():
        fits, words = RANGES[name]
        if not fits(value):
            yield f"{name} is {_shown(value)}, not {words}"
    policy, components = values.get("policy"), values.get("components")
    if (
        policy in policy_names()
        and isinstance(components, int)
        and 0 < components < (fewest := policy_kind(policy).fewest)
    ):
        yield f"components is {components}, and a {policy} policy has {fewest} or more"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
