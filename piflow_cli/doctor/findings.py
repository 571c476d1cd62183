"""What a check has found: that something works, that it is not there, or that it is there and does not work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import explain, first_line

State = Literal["works", "missing", "broken"]
LONGEST = 200  # characters of what a library says


@dataclass(frozen=True)
class Finding:
    """``says``: a line for a person; ``hint``: what to type about it; ``facts``: the same for a program."""

    state: State
    says: str
    hint: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """One row of the table: ``name``, the function that looks, and what the thing is for."""

    name: str
    look: Callable[[], Finding]
    purpose: str

    def find(self) -> Finding:
        """The finding; an exception is one too, whatever a library raises."""
        try:
            return self.look()
        except Exception as error:
            # The hints of the table are about the options of other commands.
            known = explain(error)
            return broken(f"{type(error).__name__}: {short_line(error)}" if known is None else known.message)


def works(says: str, facts: Mapping[str, object] | None = None) -> Finding:
    """It is there, and was seen to work."""
    return Finding("works", says, None, {} if facts is None else facts)


def missing(says: str, hint: str | None = None, facts: Mapping[str, object] | None = None) -> Finding:
    """It is not there; something can be done without it."""
    return Finding("missing", says, hint, {} if facts is None else facts)


def broken(says: str, hint: str | None = None, facts: Mapping[str, object] | None = None) -> Finding:
    """It is there, or cannot be done without, and does not work."""
    return Finding("broken", says, hint, {} if facts is None else facts)


def short_line(error: BaseException) -> str:
    """What an exception says, in one line that is not too long."""
    return first_line(error)[:LONGEST]
