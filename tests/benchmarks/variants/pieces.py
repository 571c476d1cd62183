"""Pieces of piflow that a variant puts its own around, and how they come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from piflow_cli.core.constants import ImitationConfig
from piflow_cli.core.imitation import Intervals, Segment, TeacherVelocity
from piflow_cli.core.policies.base import Policy
from piflow_cli.core.policies.kinds import ROWS, policy_kind

Walk = Callable[[Policy, TeacherVelocity, Segment, Intervals, ImitationConfig], tuple]
"""What visits states and asks the teacher: → states, raw times (S, B), answers, the last state and its raw times."""

_replaced: list[tuple[Any, str, Any]] = []
_GM = ROWS["gm"]


def wrap(where: Any, name: str, around: Callable[[Any], Any]) -> None:
    """Put ``around`` of what is called ``name`` in the module or class ``where`` in its place."""
    before = getattr(where, name)
    _replaced.append((where, name, before))
    setattr(where, name, around(before))


def replace_mixtures(row: str) -> None:
    """Put the family whose row is at ``row``, "module:NAME", in the place of gm, whose name it has.

    The names of families are known for good once presets have been imported.
    """
    ROWS["gm"] = row
    policy_kind.cache_clear()


def undo() -> None:
    """Put everything back, for tests: a variant otherwise lasts as long as its process."""
    replace_mixtures(_GM)
    while _replaced:
        setattr(*_replaced.pop())
