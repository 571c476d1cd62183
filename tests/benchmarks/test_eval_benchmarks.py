"""The benchmarks of evaluation run on a small case and write what they
measured; their figures are no part of the tests."""

from __future__ import annotations

import json
from pathlib import Path

import eval_digits
import eval_throughput
import pytest

RESULTS = Path(__file__).parent / "results"
MACHINE = {"benchmark", "device", "threads", "versions", "date", "results"}


def test_throughput_tells_the_parts_and_the_whole(tmp_path: Path) -> None:
    eval_throughput.main(["--small", "--device", "cpu", "--json", str(tmp_path / "result.json")])
    record = json.loads((tmp_path / "result.json").read_text())
    assert set(record) == MACHINE | {"digits"}
    for row in record["results"] + record["digits"]["results"]:
        assert row["both"] / max(row["generation"], row["features"]) == pytest.approx(row["over the slower"])


def test_the_throughput_kept_is_within_a_tenth_of_the_slower_part_for_extractors_that_people_use() -> None:
    record = json.loads((RESULTS / "eval-throughput-cpu.json").read_text())
    ratios = {row["seen by"]: row["over the slower"] for row in record["results"] + record["digits"]["results"]}
    ratios.pop("a small network from Python")
    assert set(ratios) == {"Inception", "DINOv2-small", "pixels and digits-classifier"}
    assert max(ratios.values()) <= 1.1


def test_ranks_are_those_of_the_distances(tmp_path: Path) -> None:
    results = [
        {"model": "a", "nfe": 1, "metric": "fid", "extractor": "pixels", "value": 0.3},
        {"model": "b", "nfe": 1, "metric": "fid", "extractor": "pixels", "value": 0.2},
        {"model": "b", "nfe": 1, "metric": "fid", "extractor": "digits-classifier", "value": 9.0},
        {"model": "b", "nfe": 1, "metric": "mse", "value": 0.1, "extractor": None},
    ]
    assert [row["model"] for row in eval_digits.ranked(results)] == ["b", "a"]


@pytest.mark.parametrize(("reference", "column"), [("data", "to_data"), ("teacher", "to_teacher")])
def test_the_kept_figures_are_those_of_the_digits_benchmark(reference: str, column: str) -> None:
    """Another program and another run of the students, the same teacher: its numbers agree, and so do all ranks."""
    table = {
        (row["model"], row["evaluations"]): row[column]
        for row in json.loads((RESULTS / "digits-cpu.json").read_text())["rows"]
    }
    names = {"digits-gm": "student, gm 8", "digits-dx": "student, dx 10", "teacher": "teacher, Euler"}
    (kept,) = [
        row
        for row in json.loads((RESULTS / "eval-digits-cpu.json").read_text())["results"]
        if row["reference"] == reference
    ]
    expected = [table[names[row["model"]], row["nfe"]] for row in kept["ranks"]]
    assert expected == sorted(expected) and len(expected) == 5
    for row, number in zip(kept["ranks"], expected):
        assert row["fid"] == pytest.approx(number, rel=1e-2 if row["model"] == "teacher" else 0.2)
