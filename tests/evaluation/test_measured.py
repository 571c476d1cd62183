"""Numbers out of reports: the newest of each student at each number of evaluations."""

from __future__ import annotations

import json
import os
from pathlib import Path

from piflow_cli.evaluation.measured import newest_numbers
from piflow_cli.students.naming import student_place


def row(model: str, value: float, nfe: int = 1, **more: object) -> dict:
    told = {"model": model, "kind": "student", "policy": "gm, 8", "nfe": nfe, "metric": "fid", "value": value}
    return {**told, "images": 100, "extractor": "pixels", "reference": "data of digits", **more}


def write(folder: Path, students: list[str], rows: list[dict], moment: int, **more: object) -> Path:
    folder.mkdir(parents=True)
    told = {"students": students, "results": rows, "trajectory": {}, "notes": [], **more}
    (folder / "report.json").write_text(json.dumps(told))
    os.utime(folder / "report.json", (moment, moment))
    return folder / "report.json"


def test_the_newest_report_speaks_for_a_student_however_it_was_named(tmp_path: Path) -> None:
    evals, one, two = tmp_path / "evals", tmp_path / "runs" / "one", tmp_path / "runs" / "two"
    for run in (one, two):
        (run / "adapter").mkdir(parents=True)
    write(evals / "b", ["runs/one"], [row("one", 0.5), row("one", 9.0, extractor="other"), row("one", 0.7, 2)], 300)
    newest = write(
        evals / "a", ["runs/one/adapter", str(two)],
        [row("one", 0.25), row("two", 3.0), row("teacher", 0.1, kind="teacher"), row("one", 1.0, metric="recall")], 400,
    )  # fmt: skip
    write(evals / "c", [str(one)], [row("one", 0.75)], 200)
    found = newest_numbers(evals)
    assert {key: number.value for key, number in found.items()} == {
        (student_place(one), 1): 0.25,
        (student_place(one), 2): 0.7,
        (student_place(two), 1): 3.0,
    }
    number = found[student_place(one / "adapter" / "diffusion_pytorch_model.safetensors"), 1]
    assert (number.report, number.images, number.extractor, number.moment) == (newest, 100, "pixels", 400)


def test_a_student_in_a_subfolder_is_that_one(tmp_path: Path) -> None:
    write(tmp_path / "evals" / "a", ["students"], [row("gm", 0.5)], 1, subfolder="gm")
    assert [place for place, _ in newest_numbers(tmp_path / "evals")] == [student_place(tmp_path / "students" / "gm")]


def test_what_is_no_report_is_passed_over(tmp_path: Path) -> None:
    evals = tmp_path / "evals"
    write(evals / "good", ["runs/one"], [row("one", 0.5)], 1)
    for number, text in enumerate(
        ("", "[]", "{}", '{"students": [], "results": 3}', '{"students": ["a"], "results": [{}]}')
    ):
        (evals / str(number)).mkdir()
        (evals / str(number) / "report.json").write_text(text)
    write(evals / "odd", ["runs/one"], [row("another", 0.5)], 2)
    assert len(newest_numbers(evals)) == 1 and newest_numbers(tmp_path / "nowhere") == {}
