"""What is wrong with settings, where it was written, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mend:
    """What mends a fault: ``key`` gets ``value``, which is allowed, by the ``option`` that gives the key.

    ``instead``: what was typed is left out. ``meant``: the value is the choice nearest to what was typed.
    """

    key: str
    value: object
    option: str = "--set"
    instead: bool = False
    meant: bool = False


@dataclass(frozen=True)
class Fault:
    """One fault: the place where it was written, the dotted key ("" for the whole), and what is wrong.

    The place is a file, or an option as it was typed. ``mends``: what to type; () where the key is to be left out.
    """

    source: str
    key: str
    what: str
    mends: tuple[Mend, ...] = ()

    @property
    def typed(self) -> bool:
        """Whether the fault is in an option, and in no file."""
        return self.source.startswith("--")

    def __str__(self) -> str:
        # An option names its key already, and so does `--set policy.nfe=0`.
        other = not self.typed or (
            self.source.startswith("--set ") and not self.source.startswith(f"--set {self.key}=")
        )
        return ": ".join(part for part in (self.source, self.key if other else "", self.what) if part)


@dataclass(frozen=True)
class Contradiction:
    """What is wrong with a dotted key, before it is known where that was written.

    ``causes``: the other keys that have a part in it. ``mends``: as a :class:`Fault` has them, options aside.
    """

    key: str
    what: str
    mends: tuple[Mend, ...] = ()
    causes: tuple[str, ...] = ()
