"""`piflow runs`: a table of students, the same as JSON, and what to type where there are none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def place(tiny_run: Path, tmp_path: Path, monkeypatch) -> Path:
    """A folder with a run, a broken one, and a report on the first."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, "runs/one")
    shutil.copytree(tiny_run, "runs/two")
    shutil.rmtree("runs/two/adapter")
    Path("evals/one").mkdir(parents=True)
    row = {"model": "one", "kind": "student", "policy": "gm, 8", "nfe": 2, "metric": "fid", "value": 0.18234}
    told = {"students": ["runs/one"], "results": [{**row, "images": 10}]}
    Path("evals/one/report.json").write_text(json.dumps(told))
    return tmp_path


def test_the_rows_are_there_in_words_and_as_json(cli, place: Path) -> None:
    said = cli("runs")
    lines = said.out.splitlines()
    assert said.code == 0 and lines[0].split() == [
        "RUN", "STATE", "TEACHER", "POLICY", "NFE", "ITERATION", "SIZE", "FID",
    ]  # fmt: skip
    assert lines[1].startswith("runs/one  finished  tiny") and lines[1].endswith("0.1823") and "2 of 2" in lines[1]
    assert lines[2].startswith("runs/two  broken") and lines[3] == "runs/two: runs/two/adapter is missing"
    record = json.loads(cli("runs", "runs", "--json").out)
    one, two = record["students"]
    assert (one["path"], one["nfe"], one["iteration"], one["fid"]["value"]) == ("runs/one", 2, 2, 0.18234)
    assert (two["state"], two["why"], two["fid"]) == ("broken", "runs/two/adapter is missing", None)


def test_where_there_is_none_it_says_what_to_type(cli, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli("runs")
    assert said.code == 0 and said.out.endswith("piflow distill --teacher digits\n")
    assert json.loads(cli("runs", "--json").out) == {"folder": "runs", "students": []}
    assert cli("runs", "elsewhere").code == 2


def test_it_needs_no_torch(place: Path) -> None:
    program = (
        "import sys; from piflow_cli.app import main; code = main(['runs']);"
        " assert 'torch' not in sys.modules, 'torch'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
