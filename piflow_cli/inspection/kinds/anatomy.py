"""What inspection looks at in one kind of policy, besides what it looks at in every policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ...core.policies.base import Policy
from ...core.policies.kinds import policy_kinds


@dataclass(frozen=True)
class Anatomy:
    """The parts of a policy; None: it has no such thing.

    ``by_sample``: a named tuple of numbers (B, ...) of what it is made of, positions summed up. ``by_position``: its
    components as a named tuple of (B, ...) tensors, ``effective`` (B, *S) among them. ``switching``: how its posterior
    changes along a path. ``density``: that of one channel of x_0 at a single position, (V, T).
    """

    by_sample: Callable[[Any], Any] | None = None
    by_position: Callable[[Any], Any] | None = None
    switching: Callable[..., Any] | None = None
    density: Callable[..., Any] | None = None


def anatomy_of(policy: Policy) -> Anatomy:
    """The anatomy that the row of a policy names; of one that names none, or has no
    row, nothing in particular is looked at."""
    for kind in policy_kinds():
        if kind.policy is type(policy) and kind.anatomy is not None:
            module, _, name = kind.anatomy.partition(":")
            return getattr(import_module(module), name)
    return Anatomy()
