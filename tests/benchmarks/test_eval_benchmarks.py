"""The benchmarks of evaluation run on a small case and write what they measured; their figures are no part of the tests."""

from __future__ import annotations

import json
from pathlib import Path

import eval_digits
import eval_throughput

MACHINE = {"benchmark", "device", "threads", "versions", "date", "results"}


def test_throughput_tells_the_parts_and_the_whole(tmp_path: Path) -> None:
    eval_throughput.main(["--small", "--device", "cpu", "--json", str(tmp_path / "result.json")])
    record = json.loads((tmp_path / "result.json").read_text())
    assert set(record) == MACHINE
    rows = {row["run"]: row for row in record["results"]}
    assert list(rows) == ["generation", "features", "both", "two threads"]
    assert max(rows["generation"]["over the slower"], rows["features"]["over the slower"]) == 1


def test_ranks_are_those_of_the_distances(tmp_path: Path) -> None:
    results = [
        {"model": "a", "nfe": 1, "metric": "fid", "extractor": "pixels", "value": 0.3},
        {"model": "b", "nfe": 1, "metric": "fid", "extractor": "pixels", "value": 0.2},
        {"model": "b", "nfe": 1, "metric": "fid", "extractor": "digits-classifier", "value": 9.0},
        {"model": "b", "nfe": 1, "metric": "mse", "value": 0.1, "extractor": None},
    ]
    assert [row["model"] for row in eval_digits.ranked(results)] == ["b", "a"]
