"""The anatomy of a kind of policy: what inspection measures in it besides what it measures in every policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ...core.policies.base import Policy
from ...core.policies.kinds import policy_kind, policy_kinds, policy_names
from ..remedies import AdviceParts, SettingOf


@dataclass(frozen=True)
class Anatomy:
    """The parts of a policy that inspection measures and shows; None where it has no such part.

    Attributes:
        name: of its numbers in policy.json, and of its picture.
        heading, text, figure: its section in the report: a heading, sentences, and a function to the figure.
        colours: of such students in all figures; the second is for another student of the kind.
        by_sample: a function to a named tuple of numbers (B, ...), summed up over positions.
        by_position: a function to a named tuple of tensors (B, ...) of its components, with ``effective`` (B, *S).
        switching: a function to the changes of its posterior along a path.
        density: a function to the density (V, T) of one channel of x_0 at a single position.
        summarise: a function to a dataclass, from what ``by_sample`` and ``switching`` found in a segment, the raw time
            of its source and the raw length that the policy spans.
        lines: a function from that dataclass to lines of the verdict.
        advice: a function from that dataclass and the settings to advice.
        steers: whether the policy reacts to where its path really went.
    """

    name: str = ""
    heading: str = ""
    text: str = ""
    colours: tuple[str, str] = ("#8c564b", "#c44e82")

    by_sample: Callable[[Any], Any] | None = None
    by_position: Callable[[Any], Any] | None = None
    switching: Callable[..., Any] | None = None
    density: Callable[..., Any] | None = None
    summarise: Callable[[Any, Any, float, float], Any] | None = None
    lines: Callable[[Any], Iterator[tuple[str, str]]] = lambda part: iter(())
    advice: Callable[[Any, SettingOf], Iterator[AdviceParts]] = lambda part, setting: iter(())
    steers: bool = False
    figure: Callable[[Any], Any] | None = None


def anatomy_named(kind: str) -> Anatomy:
    """The anatomy that the row of this ``kind`` names; an empty one where the row names none."""
    place = policy_kind(kind).anatomy
    if place is None:
        return Anatomy()
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def anatomy_of(policy: Policy) -> Anatomy:
    """The anatomy of a policy, by its class; an empty one for a policy without a row."""
    names = [kind.name for kind in policy_kinds() if kind.policy is type(policy)]
    return anatomy_named(names[0]) if names else Anatomy()


def anatomies() -> list[Anatomy]:
    """All anatomies that have a section in the report, each once."""
    found = {anatomy.name: anatomy for anatomy in map(anatomy_named, policy_names()) if anatomy.figure is not None}
    return list(found.values())
