"""piflow with the packages of tests/outside beside it, in a process of its own: entry points are read once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from piflow_cli.packages import _points, outside_row

PACKAGES = Path(__file__).parent / "outside"
# One process for all commands: importing torch takes longer than any of them.
PROGRAM = """
import json, sys
from piflow_cli.app import main
for line in json.loads(sys.argv[1]):
    print("#", line[0], flush=True)
    code = main(line)
    if code:
        sys.exit(code)
"""


def run_commands(
    commands: Sequence[Sequence[str]], folder: Path, packages: Path = PACKAGES, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``commands`` in ``folder`` up to the first that fails; ``packages``: the folder that holds other packages."""
    variables = {**os.environ, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1", **environment}
    arguments = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    return subprocess.run(arguments, cwd=folder, env=variables, capture_output=True, text=True)


@contextmanager
def installed(monkeypatch: pytest.MonkeyPatch, packages: Path = PACKAGES) -> Iterator[None]:
    """``packages`` beside piflow in this process, for commands that read tables when they are asked.

    Tables that are read at import (the names of policies in presets, completions) need :func:`run_commands`.
    """
    before = set(sys.modules)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(packages))
        _forget()
        try:
            yield
        finally:
            for name in set(sys.modules) - before:
                if str(packages) in str(getattr(sys.modules[name], "__file__", None)):
                    del sys.modules[name]
    _forget()


def _forget() -> None:
    for read in (_points, outside_row):
        read.cache_clear()
