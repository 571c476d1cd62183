"""The time that a whole run may take, as people type it: 45s, 30m, 1h30m, 2d or 40gpu-h."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from piflow_cli.presets.bounds import PROCESSES

FORMS = "a time such as 45s, 30m, 1h30m, 12h, 2d or 40gpu-h"
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
LEAST, MOST = 5, 366 * UNITS["d"]  # seconds
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_SINGLE = re.compile(rf"({_NUMBER})(d|h|m|s)", re.ASCII)
_JOINED = re.compile(r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?", re.ASCII)
_OF_GPUS = re.compile(rf"({_NUMBER})gpu-h", re.ASCII)


@dataclass(frozen=True)
class Budget:
    """``amount`` seconds of one process; ``shared``: of all processes together."""

    amount: float
    shared: bool = False

    def seconds(self, processes: int) -> float:
        """The time of a run on so many processes."""
        return self.amount / processes if self.shared else self.amount

    def text(self, seconds: float, processes: int) -> str:
        """At least ``seconds`` on so many processes, as a budget of this kind is typed."""
        if self.shared:
            hundredths = math.ceil(100 * seconds * processes / UNITS["h"])
            return f"{hundredths / 100:.2f}".rstrip("0").rstrip(".") + "gpu-h"
        return in_units(seconds)


def read_budget(value: object) -> Budget:
    """The budget that a text means; raises ValueError, which says what is right, where it means none."""
    text = value if isinstance(value, str) else ""
    budget = None
    if found := _SINGLE.fullmatch(text):
        budget = Budget(float(found[1]) * UNITS[found[2]])
    elif found := _OF_GPUS.fullmatch(text):
        budget = Budget(float(found[1]) * UNITS["h"], shared=True)
    elif text and (found := _JOINED.fullmatch(text)):
        budget = Budget(
            float(sum(int(number) * size for number, size in zip(found.groups(), UNITS.values()) if number))
        )
    if budget is None:
        raise ValueError(f"must be {FORMS}, not {value!r:.60}")
    most = PROCESSES.most * MOST if budget.shared else MOST
    if not LEAST <= budget.amount <= most:
        raise ValueError(
            f"must be at least {LEAST}s, since torch alone takes seconds to load, and at most"
            f" {budget.text(MOST, int(PROCESSES.most))}, not {text}"
        )
    return budget


def check_budget(value: object) -> str:
    """``value`` itself, for pydantic; raises ValueError where it is no budget."""
    read_budget(value)
    return str(value)


def in_units(seconds: float) -> str:
    """At least so many seconds in two units at most, as a budget is typed.

    >>> in_units(59.2), in_units(3661), in_units(7200)
    ('60s', '1h2m', '2h')
    """
    names = list(UNITS)
    first = next((name for name in names if seconds >= 2 * UNITS[name]), "s")
    smaller = names[names.index(first) + 1] if first != "s" else "s"
    whole = math.ceil(seconds / UNITS[smaller]) * UNITS[smaller]
    parts = [(whole // UNITS[first], first), (whole % UNITS[first] // UNITS[smaller], smaller)]
    return "".join(f"{number}{name}" for number, name in parts if number) or "0s"
