"""`piflow status`: the status of a run, in words and as JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path


def test_the_command_says_it_in_words_and_as_json(cli, tiny_run: Path) -> None:
    said = cli("status", str(tiny_run))
    assert said.code == 0 and "state       finished" in said.out and "iteration   2 of 2" in said.out
    record = json.loads(cli("status", str(tiny_run), "--json").out)
    assert (record["state"], record["iteration"], record["process"]) == ("finished", 2, None)
    assert record["next"] == f"piflow sample {tiny_run}"


def test_a_broken_run_is_shown_and_ends_with_1(cli, tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    shutil.rmtree(run / "adapter")
    said = cli("status", str(run))
    assert said.code == 1 and "broken" in said.out and f"Error: {run} is broken" in said.err


def test_what_is_no_run_ends_with_2(cli, tmp_path: Path) -> None:
    said = cli("status", str(tmp_path / "nothing"))
    assert (said.code, said.out) == (2, "") and "is not there" in said.err


def test_a_tilde_is_the_home(cli, tiny_run: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tiny_run.parent))
    assert cli("status", f"~/{tiny_run.name}").code == 0


def test_it_needs_no_torch(tiny_run: Path) -> None:
    program = (
        "import sys; from piflow_cli.app import main; code = main(sys.argv[1:]);"
        " assert 'torch' not in sys.modules, 'torch'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, "status", str(tiny_run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
