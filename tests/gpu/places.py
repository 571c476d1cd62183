"""The modules of tests/ that the programs here share."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).resolve().parent.parent
FOLDERS = (TESTS / "gpu", TESTS / "benchmarks", TESTS, TESTS.parent)


def share() -> None:
    """Let modules of those folders, and the package beside them, be imported."""
    sys.path[:0] = [str(folder) for folder in FOLDERS if str(folder) not in sys.path]


def sessions() -> ModuleType:
    """tests/fake_cuda/sessions.py, by its place: beside it lies a module named as a package of others."""
    spec = spec_from_file_location("sessions", TESTS / "fake_cuda" / "sessions.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    # Its dataclasses look themselves up.
    sys.modules["sessions"] = module
    spec.loader.exec_module(module)
    return module
