"""The table of policies: one row each, loaded when it is asked for. Nothing here imports torch.

A row names its anatomy, which stands on a floor above, as a text: a policy has one row, and the core imports nothing.
Inspection alone looks it up, when it meets such a policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..heads import PolicyHead
    from .base import Policy

# Other packages list theirs under this entry point, in the form of the table's own rows: name = "module:ROW".
ENTRY_POINT = "piflow.policies"
ROWS = {
    "gm": "piflow_cli.core.policies.gmflow:GM",
    "dx": "piflow_cli.core.policies.dx:DX",
    "dx-poly": "piflow_cli.core.policies.dx:DX_POLYNOMIAL",
    "momentum": "piflow_cli.core.policies.momentum:MOMENTUM",
}


@dataclass(frozen=True)
class PublishedNames:
    """Names that the files of a policy have for other programs (`formats.md` has the published ones).

    Attributes:
        type, mode: values in the entry ``policy_config`` of a file's metadata.
        class_prefix: prefix of the widened class's name; None keeps the base's class, with more channels.
        fields: a function to the fields that such a config has besides its base's, from the number of components, the
            width of the log-std network and the positions of a token.
        sizes: by the name of a student's fact, the config field and the tensor (by its rows) that show it.
        mark: a tensor that only such files have, which identifies one without a ``policy_config``.
        scheduler: the scheduler of diffusers that follows such policies itself.
        segment: raw length that such a policy spans where its file does not say, if it was trained with one.
    """

    type: str
    mode: str = "grid"
    class_prefix: str | None = "Policy"
    fields: Callable[[int, int, int], dict[str, Any]] = lambda components, width, positions: {}
    sizes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    mark: str | None = None
    scheduler: str | None = None
    segment: float = 1.0


@dataclass(frozen=True)
class Words:
    """Words that reports use for a policy.

    Attributes:
        title: a short name.
        parts: the name of its parts, in the plural.
        predicts: what a network predicts for it.
        card: a line of a model card, with {} for the number of parts.
        reaction: its reaction to an error in the state, if it is the same for all such policies.
    """

    title: str
    parts: str
    predicts: str
    card: str
    reaction: str | None = None


@dataclass(frozen=True)
class PolicyKind:
    """A row: a policy, and all that the rest of piflow knows about it.

    Attributes:
        name: its name in presets, options and files.
        policy, head: the classes.
        words: for reports.
        published: for files.
        own_segment: whether the policy spans a segment of raw time that it was trained with, so that its shift is
            fixed.
        fewest: the least number of parts.
        settings: those keys of presets that only some policies use and this one does.
        anatomy: "module:NAME" of what inspection measures in it besides what it measures in every policy.
    """

    name: str
    policy: type[Policy]
    head: type[PolicyHead]
    words: Words
    published: PublishedNames
    own_segment: bool = False
    fewest: int = 1
    settings: frozenset[str] = frozenset()
    anatomy: str | None = None


class OutsidePolicyError(Exception):
    """A policy of another package cannot be used; ``package`` is its name."""

    def __init__(self, point: EntryPoint, why: str) -> None:
        self.package = "the package" if point.dist is None else point.dist.name
        super().__init__(f"{self.package} brings {point.name} as {point.value}, which {why}")


@cache
def _outside() -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT) if point.name not in ROWS}


def policy_names() -> tuple[str, ...]:
    """The names of all policies, ours first; none of them is imported."""
    return (*ROWS, *sorted(_outside()))


@cache
def policy_kind(name: str) -> PolicyKind:
    """The row called ``name``.

    Raises:
        KeyError: there is none.
        OutsidePolicyError: it is another package's, and cannot be imported, or is no PolicyKind of that name.
    """
    if name in ROWS:
        module, _, row = ROWS[name].partition(":")
        return getattr(import_module(module), row)
    point = _outside()[name]
    try:
        found = point.load()
    except Exception as error:
        # A stranger's module may raise anything, and that is no fault of the student or preset that is being read.
        raise OutsidePolicyError(point, f"cannot be imported: {error}") from error
    if not isinstance(found, PolicyKind) or found.name != name:
        raise OutsidePolicyError(point, "is no PolicyKind of that name")
    return found


def policy_kinds() -> tuple[PolicyKind, ...]:
    """All rows that can be used, ours first.

    One of another package that cannot stops only those who ask for it, and :func:`policy_kind` names it to them.
    """
    found = []
    for name in policy_names():
        with suppress(OutsidePolicyError):
            found.append(policy_kind(name))
    return tuple(found)


def policy_class(name: str) -> type[Policy]:
    """The class of the policies called ``name``."""
    return policy_kind(name).policy


def head_class(name: str) -> type[PolicyHead]:
    """The class of the heads that emit policies called ``name``."""
    return policy_kind(name).head


def head_layers() -> tuple[str, ...]:
    """The names of the layers of all heads."""
    return tuple(dict.fromkeys(layer for kind in policy_kinds() for layer in kind.head.layers))
