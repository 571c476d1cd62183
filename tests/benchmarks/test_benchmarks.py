"""Every benchmark runs on a small case and writes what it measured; its figures are no part of the tests."""

import json
import runpy
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(str(HERE))
    runpy.run_path(str(HERE / name), run_name="__main__")


def test_the_digits_benchmark_measures_teacher_and_students(tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "digits.json"
    run(
        "digits.py",
        "--students",
        "gm-1",
        "--iterations",
        "2",
        "--images",
        "20",
        "--json",
        str(file),
        monkeypatch=monkeypatch,
    )
    record = json.loads(file.read_text())
    assert record["versions"]["torch"] and record["date"] and record["device"]
    assert [row["evaluations"] for row in record["rows"]] == [1, 2, 4, 8, 32, 128, 1]
    fine = record["rows"][5]
    assert fine["squared_distance"] == 0 and fine["to_teacher"] == pytest.approx(0, abs=1e-6)
    distances = [row["squared_distance"] for row in record["rows"][:6]]
    assert distances == sorted(distances, reverse=True)
    assert "teacher, Euler" in capsys.readouterr().out


def test_the_step_benchmark_compares_with_the_networks_alone(tmp_path, monkeypatch) -> None:
    file = tmp_path / "step.json"
    run("step.py", "--small", "--json", str(file), monkeypatch=monkeypatch)
    rows = {row["work"]: row for row in json.loads(file.read_text())["rows"]}
    assert rows["networks alone"]["ratio"] == 1
    assert rows["iteration"]["milliseconds"] > 0 and rows["iteration, reference rollout"]["ratio"] > 0
