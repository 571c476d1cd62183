"""`piflow doctor`: a line for each check, and the exit code of what they have found."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from piflow_cli import doctor
from piflow_cli.doctor.findings import Probe, broken, missing, works

STEP = Probe("step", partial(works, "a step of digits on cpu", {"device": "cpu"}), "is what a training is made of")
AWAY = Probe("lpips", partial(missing, "not installed", "pip install lpips"), "measures LPIPS")
WRONG = Probe("kernels", partial(broken, "a trial launch failed"), "make rollouts faster")


def test_this_machine_trains_and_nothing_is_left_behind(cli, tmp_path: Path, monkeypatch) -> None:
    """All of the checks; the machine that runs these tests can train."""
    for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    outcome = cli("doctor", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    data = json.loads(outcome.out)
    rows = {row["check"]: row for row in data["checks"]}
    assert data["trains"] and data["device"] == rows["step"]["facts"]["device"]
    assert list(rows) == [check.name for check in doctor.CHECKS]
    assert rows["rollout"]["facts"]["error"] < 1e-4 and rows["step"]["facts"]["loss"] > 0
    assert {row["state"] for row in data["checks"]} <= {"works", "missing"}
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    ("checks", "code", "last"),
    [
        ((AWAY, STEP), 0, "piflow can train here, on the CPU."),
        ((WRONG, STEP), 1, "piflow cannot train here as it is."),
        ((AWAY,), 1, "piflow cannot train here as it is."),
    ],
)
def test_the_exit_code_says_whether_what_is_there_works(cli, monkeypatch, checks, code: int, last: str) -> None:
    monkeypatch.setattr(doctor, "CHECKS", checks)
    outcome = cli("doctor")
    assert outcome.code == code and outcome.out.splitlines()[-1] == last
    assert ("Error: " in outcome.err) == bool(code) and "Traceback" not in outcome.err


def test_a_line_says_what_is_missing_what_for_and_what_to_type(cli, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (AWAY, WRONG, STEP))
    outcome = cli("doctor")
    assert outcome.out.splitlines()[:4] == [
        "missing  lpips    not installed (measures LPIPS)",
        "                  → pip install lpips",
        "broken   kernels  a trial launch failed",
        "works    step     a step of digits on cpu",
    ]
    assert outcome.err.splitlines()[1:] == [
        "Error: not all that is there works: kernels",
        "  → the lines above say what is wrong and, where it is known, what to type",
    ]


def test_the_options_are_those_of_output(cli) -> None:
    out = cli("doctor", "--help").out
    assert "--json" in out and "piflow doctor --json" in out
    assert cli("doctor", "--fix").code == 2
