"""The rollout and overhead benchmarks run a tiny case each, and say on what they were measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import overhead, rollout

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
