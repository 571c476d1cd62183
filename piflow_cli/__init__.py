"""pi-Flow: distil flow models into policies that sample in one to a few network evaluations.

For Python: ``import piflow_cli as piflow`` has the commands as functions (:mod:`piflow_cli.door`), and the errors that
they raise. They are loaded when they are first asked for, since torch takes seconds to import.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .console import Console
    from .door.distilling import distill, list_teachers
    from .door.exporting import export
    from .door.measuring import evaluate, inspect
    from .door.sampling import load_student, sample
    from .errors import Interrupted, PiflowError, RunError, UsageError

__version__ = "0.2.0"
__all__ = [
    "Console",
    "Interrupted",
    "PiflowError",
    "RunError",
    "UsageError",
    "distill",
    "evaluate",
    "export",
    "inspect",
    "list_teachers",
    "load_student",
    "sample",
]

_PLACES = {
    **dict.fromkeys(("distill", "list_teachers"), "door.distilling"),
    **dict.fromkeys(("load_student", "sample"), "door.sampling"),
    **dict.fromkeys(("evaluate", "inspect"), "door.measuring"),
    "export": "door.exporting",
    "Console": "console",
    **dict.fromkeys(("PiflowError", "UsageError", "RunError", "Interrupted"), "errors"),
}
# Logs of a package are for callers that ask: without this, Python would print its warnings.
logging.getLogger("piflow").addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .streams import calm

    with calm():
        value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
