"""`piflow eval` and `piflow inspect-policy` tell the same trajectory errors."""

from __future__ import annotations

import json


def test_both_commands_tell_the_same_errors(cli, evaluate, tiny_run, tmp_path) -> None:
    outcome = evaluate(tiny_run, "--metrics", "trajectory", "--batch-size", "7")
    assert cli("inspect-policy", str(tiny_run), "--output", str(tmp_path / "policy"), "--quiet").code == 0
    (student,) = json.loads((tmp_path / "policy" / "policy.json").read_text())["students"]
    inspected = [error for step in student["steps"] for error in step["velocity_error"]]
    (evaluated,) = json.loads(outcome.out)["trajectory"].values()
    assert len(inspected) == len(evaluated) == 16
    for ours, theirs in zip(evaluated, inspected):
        for name in ("raw", "squared", "teacher"):
            assert abs(ours[name] - theirs[name]) <= 1e-5 * abs(theirs[name])
