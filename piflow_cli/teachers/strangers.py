"""Models of diffusers that are another family's, or no family's."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from . import families

MODULAR = "modular_model_index.json"
WHOLE = "model_index.json"


def another_model(folder: Path, found: str, expected: str) -> UsageError:
    """The error about a ``folder`` that holds a model of the class ``found`` in place of one of ``expected``."""
    what = f"{folder} holds a {found}, not a {expected}"
    fitting = sorted(name for name, family in families().items() if family.model_name == found)
    if fitting:
        return UsageError(
            what, f"choose a preset of that model, whose teacher.family is {' or '.join(fitting)}, or another base"
        )
    return UsageError(
        f"{what}; piflow has no family for that model{_modular(folder)}", "name another base: --base PATH"
    )


def _modular(folder: Path) -> str:
    """Why it has none, where its pipeline is a modular one: no two of those are called alike."""
    if (folder / MODULAR).is_file() and not (folder / WHOLE).is_file():
        known = sorted(name for name, family in families().items() if family.modular_blocks is not None)
        return f", whose pipeline is a modular one; of those piflow has {' and '.join(known)}"
    return ""
