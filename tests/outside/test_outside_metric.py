"""Metrics of another package, named by their entry points alone, go where ours go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from outside_packages import installed
from PIL import Image


def found_in(report: Path) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in json.loads((report / "report.json").read_text())["results"]}


def test_metrics_of_another_package_are_measured_of_folders_and_students(cli, tmp_path, monkeypatch) -> None:
    """Pictures of the levels 51 and 102 are 51 / 127.5 apart in every pixel. A student of plain pictures begins with
    those of its teacher, whose levels are 1/3 apart."""
    for name, level in (("dark", 51), ("bright", 102)):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("L", (4, 4), level).save(tmp_path / name / f"{number}.png")
    measured = ["--extractor", "pixels", "--cache", "cache", "--quiet"]
    metrics = ["--metrics", "fid,brightness,brightness-gain", "--num-images", "6"]
    commands = [
        [
            "eval",
            "--images",
            "dark",
            "--reference",
            "bright",
            "--metrics",
            "brightness",
            *measured,
            "--output",
            "folders",
        ],
        ["distill", "--teacher", "plain", "--iterations", "2", "--output", "run", "--quiet"],
        ["eval", "run", *metrics, *measured, "--output", "students"],
        ["eval", "run", *metrics[2:], *measured, "--output", "usual"],
    ]
    monkeypatch.chdir(tmp_path)
    with installed(monkeypatch):
        for command in commands:
            outcome = cli(*command)
            assert outcome.code == 0, outcome.err
    assert found_in(tmp_path / "folders") == {"brightness": pytest.approx(0.4)}
    found = found_in(tmp_path / "students")
    assert found.keys() == {"fid", "brightness", "brightness-gain"}
    # The reference is the teacher at its best: both say how far the mean picture is from the teacher's.
    assert abs(found["brightness-gain"]) <= found["brightness"] < 0.5 / 3
    page = (tmp_path / "students" / "report.html").read_text()
    assert "brightness gain" in page and "distance of mean features; lower is better" in page
    assert not {"brightness", "brightness-gain"} & found_in(tmp_path / "usual").keys()


def test_they_are_named_beside_ours_where_a_name_is_wrong(cli, monkeypatch) -> None:
    with installed(monkeypatch):
        outcome = cli("eval", "run", "--metrics", "brigtness")
    assert outcome.code == 2 and "did you mean brightness?" in outcome.err and "speed,brightness,bright" in outcome.err


def test_what_they_need_is_asked_for(cli, monkeypatch) -> None:
    with installed(monkeypatch):
        outcome = cli("eval", "--images", "a", "--reference", "b", "--metrics", "brightness-gain")
    assert outcome.code == 2 and "--metrics brightness-gain needs a student" in outcome.err
