"""Wrong lines and what their hints are to come to: cases.yaml, and those of faults and of `piflow doctor`, read.

Words of a line in braces are files of `hint_inputs`, and {tmp} is a fresh folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

OF_PACKAGES = ("hidden", "unloaded", "outdated", "misbuilt", "built_for_cpu")


@dataclass(frozen=True)
class Case:
    """``line``: a wrong one, to which ``module`` gives the ``hint``, as it is in the source. ``fill``, ``it`` and
    ``pick``: as `hint_typing.retyped` has them.

    ``env``: variables of the environment. ``spoken``: the line succeeds, and the hint is said meanwhile. ``then``:
    what the line that was typed says where it cannot succeed here, for a reason of its own; None: it succeeds.
    ``needs``: a package without which there is nothing to type. ``hub``: what is the matter with the Hub, as
    `hub_server` has it; None: it cannot be reached.
    ``faults``: functions of `hint_faults`, and what each is told. ``computes``: the lines run to their end.
    ``checks``: the one that `piflow doctor` makes; its hint is below what it found.
    """

    module: str
    hint: str
    line: str
    fill: Mapping[str, str] = field(default_factory=dict)
    it: Sequence[str] = ()
    then: str | None = None
    pick: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    spoken: bool = False
    faults: Mapping[str, str] = field(default_factory=dict)
    computes: bool = False
    needs: str | None = None
    hub: str | None = None
    checks: str | None = None

    @property
    def key(self) -> str:
        """As `hint_texts.to_type` names it."""
        return f"{self.module}: {self.hint}"

    @property
    def package(self) -> str | None:
        """The package that a fault is about, where it is to be installed."""
        return next((self.faults[fault] for fault in OF_PACKAGES if fault in self.faults), None)


def _read(name: str) -> dict:
    return yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))


READ = (_read("cases.yaml")["typed"], _read("cases_of_faults.yaml"), _read("cases_of_doctor.yaml"))
CASES = tuple(Case(module, **entry) for cases in READ for module, entries in cases.items() for entry in entries)
