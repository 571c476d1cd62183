"""Every benchmark runs on a small case and writes what it measured; its figures are no part of the tests."""

from __future__ import annotations

import json
from pathlib import Path

import digits
import flux_step
import load_adapter
import overhead
import pytest
import rollout
import step

MACHINE = {"benchmark", "device", "threads", "versions", "date", "results"}
ROLLOUT = {"case", "shape", "parts", "substeps", "mode", "reference_ms", "fused_ms", "ratio"}
ROLLOUT |= {"reference_error", "fused_error"}
OVERHEAD = {"case", "network_ms", "policy_ms", "share", "memory_over_means"}


@pytest.mark.parametrize(("benchmark", "keys", "rows"), [(rollout, ROLLOUT, 6), (overhead, OVERHEAD, 2)])
def test_a_small_run_writes_its_result(benchmark, keys: set[str], rows: int, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    benchmark.main(["--device", "cpu", "--small", "--rounds", "1", "--json", str(path)])
    result = json.loads(path.read_text())
    assert set(result) == MACHINE
    assert len(result["results"]) == rows
    assert all(set(row) == keys for row in result["results"])
    if benchmark is rollout:
        forward = [row for row in result["results"] if row["mode"].startswith("forward")]
        assert all(row["fused_error"] <= 2 * row["reference_error"] for row in forward)


def test_the_digits_benchmark_measures_teacher_and_students(tmp_path: Path, capsys) -> None:
    file = tmp_path / "digits.json"
    digits.main(["--students", "gm-1", "--iterations", "2", "--images", "20", "--json", str(file)])
    record = json.loads(file.read_text())
    assert MACHINE - {"benchmark", "results"} <= set(record)
    assert [row["evaluations"] for row in record["rows"]] == [1, 2, 4, 8, 32, 128, 1]
    fine = record["rows"][5]
    assert fine["squared_distance"] == 0 and fine["to_teacher"] == pytest.approx(0, abs=1e-6)
    distances = [row["squared_distance"] for row in record["rows"][:6]]
    assert distances == sorted(distances, reverse=True)
    assert "teacher, Euler" in capsys.readouterr().out


def test_the_step_benchmark_compares_with_the_networks_alone(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    step.main(["--small", "--json", str(file)])
    rows = {row["work"]: row for row in json.loads(file.read_text())["rows"]}
    assert rows["networks alone"]["ratio"] == 1
    assert rows["iteration"]["milliseconds"] > 0 and rows["iteration, reference rollout"]["ratio"] > 0


def test_the_flux_benchmark_splits_a_step_and_compares_it_with_the_estimate(other_precision, tmp_path: Path) -> None:
    file = tmp_path / "flux.json"
    flux_step.main(["--small", "--device", "cpu", "--precisions", "bf16,fp8", "--rounds", "1", "--json", str(file)])
    record = json.loads(file.read_text())
    assert set(record) == MACHINE and [row["precision"] for row in record["results"]] == ["bf16", "fp8"]
    for row in record["results"]:
        assert set(row["share"]) == {"student", "teacher", "policy", "optimiser"} and all(
            value > 0 for value in row["seconds"].values()
        )
        assert row["peak_bytes"] is None and row["estimate_bytes"]["peak"] > row["estimate_bytes"]["base"] > 0


@pytest.mark.skipif(not load_adapter.STATUS.exists(), reason="resident memory is read from /proc")
def test_loading_an_adapter_takes_little_beside_its_base(tmp_path: Path) -> None:
    file = tmp_path / "load.json"
    load_adapter.main(["--small", "--folder", str(tmp_path), "--json", str(file)])
    (row,) = json.loads(file.read_text())["results"]
    assert row["base_bytes"] == 2 * row["base_parameters"] > 10 * row["adapter_bytes"]
    # The limit of the full case is 1.1; what Python itself takes on the way counts for more here.
    assert row["peak_over_base"] < 1.2
