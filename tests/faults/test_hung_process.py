"""A process that hangs in a step: the others wait for so long and no longer, and say which did not come."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from process_runs import whole

from piflow_cli.errors import UsageError
from piflow_cli.students.run_checkpoints import newest_whole
from piflow_cli.training.waiting import SECONDS, VARIABLE, step_timeout

HUNG = """
import os, sys, time
from piflow_cli.app import main
from piflow_cli.training import run
step = run.train_step
def hanging(session):
    if session.iteration == 2 and os.environ["RANK"] == "1":
        time.sleep(600)
    step(session)
run.train_step = hanging
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.long
def test_the_one_that_waited_names_the_one_that_did_not_come(tiny_teacher, tmp_path) -> None:
    (tmp_path / "hung.py").write_text(HUNG)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(tmp_path / "hung.py"), "distill", *whole(tiny_teacher, tmp_path), "--device", "cpu", "--quiet"]
    command += ["--output", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, VARIABLE: "3"}, capture_output=True, text=True)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert said == ["Error: process 0 of 2, at iteration 2, waited 3 s for the others: process 1 did not come"]
    assert 'Traceback (most recent call last):\n  File "' + str(tmp_path) not in done.stderr
    checkpoint, damaged = newest_whole(tmp_path / "out" / "checkpoints")
    assert checkpoint is not None and checkpoint.name == "0000002" and damaged == []


@pytest.mark.parametrize(("said", "seconds"), [(None, SECONDS), ("90", 90.0), ("0.5", 0.5)])
def test_the_time_is_that_of_the_environment(monkeypatch, said, seconds) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if said is not None:
        monkeypatch.setenv(VARIABLE, said)
    assert step_timeout() == seconds


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_one_process_is_told_of_it_too(cli, tiny_teacher, tmp_path, monkeypatch, more) -> None:
    monkeypatch.setenv(VARIABLE, "abc")
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(tmp_path / "out"), *more)
    assert (outcome.code, outcome.out) == (2, "") and not (tmp_path / "out").exists()
    error, hint = outcome.err.splitlines()
    assert error == f"Error: {VARIABLE} is 'abc', and no number of seconds above 0"
    assert hint == f"  → export {VARIABLE}=1800"


@pytest.mark.parametrize("said", ["", "0", "-3", "nan", "inf", "an hour"])
def test_what_is_no_time_is_refused(monkeypatch, said) -> None:
    monkeypatch.setenv(VARIABLE, said)
    with pytest.raises(UsageError, match=f"{VARIABLE} is {said!r}"):
        step_timeout()
