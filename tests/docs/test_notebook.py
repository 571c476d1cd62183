"""The notebook of digits runs as it stands, from an empty folder, and shows what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import ROOT

NOTEBOOK = ROOT / "docs" / "digits.ipynb"
# Runs each cell as a notebook does, all in one namespace, and prints what a test wants to know.
PROGRAM = """
import json, sys
names = {}
for number, cell in enumerate(json.load(open(sys.argv[1]))):
    exec(compile(cell, f"cell {number}", "exec"), names)
print(json.dumps({"distances": names["distances"], "grid": names["grid"].size, "way": names["way"].size}))
"""


def cells() -> list[str]:
    """The source of the cells of code."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_what_the_notebook_shows_is_made_by_whoever_opens_it() -> None:
    """Outputs would grow old, and hold pictures and names of a machine."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.long
def test_the_notebook_runs_and_its_student_is_closer_than_the_teacher_in_one_step(tmp_path: Path) -> None:
    (tmp_path / "cells.json").write_text(json.dumps(cells()))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "cells.json"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    (student,) = [value for name, value in found["distances"].items() if name != "teacher"]
    assert student < 0.5 * found["distances"]["teacher"]
    assert found["grid"][0] > 10 * 64 and found["grid"][1] > 3 * 64 and found["way"][0] > 64
