"""Every benchmark runs on a small case and writes what it measured; its figures are no part of the tests."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import budget
import cost
import digits
import endurance
import flux_step
import launch_counts
import load_adapter
import overhead
import pytest
import quality
import rollout
import step
import torch

needs_assembler = pytest.mark.skipif(
    find_spec("triton") is None or sys.platform != "linux", reason="Triton brings an assembler for Linux alone"
)
MACHINE = {"benchmark", "device", "threads", "versions", "date", "results"}
ROLLOUT = {"case", "shape", "parts", "substeps", "mode", "reference_ms", "fused_ms", "ratio"}
ROLLOUT |= {"reference_error", "fused_error"}
OVERHEAD = {"case", "network_ms", "policy_ms", "share", "memory_over_means"}


@pytest.mark.parametrize(("benchmark", "keys", "rows"), [(rollout, ROLLOUT, 6), (overhead, OVERHEAD, 2)])
def test_a_small_run_writes_its_result(benchmark, keys: set[str], rows: int, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    benchmark.main(["--device", "cpu", "--small", "--rounds", "1", "--json", str(path)])
    result = json.loads(path.read_text())
    assert set(result) - {"windows"} == MACHINE
    assert len(result["results"]) == rows
    assert all(set(row) == keys for row in result["results"])
    if benchmark is rollout:
        forward = [row for row in result["results"] if row["mode"].startswith("forward")]
        assert all(row["fused_error"] <= 2 * row["reference_error"] for row in forward)
        assert [row["case"] for row in result["windows"]] == ["small", "small DX"]


@pytest.mark.long
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


def test_the_endurance_benchmark_times_every_part_of_a_run(tmp_path: Path) -> None:
    file = tmp_path / "endurance.json"
    endurance.main(["--small", "--json", str(file)])
    record = json.loads(file.read_text())
    rows = {row["part"]: row for row in record["results"]}
    assert set(record) == MACHINE and {part: row["calls"] for part, row in rows.items()} == {
        "step": 12,
        "checkpoint": 2,
        "preview": 2,
        "metrics": 12,
        "watching": 12,
    }
    assert rows["step"]["share"] is None
    for part, count in endurance.TIMES.items():
        row, step = rows[part], rows["step"]
        assert row["cpu_share"] == pytest.approx(count * row["cpu_seconds"] / (100 * step["cpu_seconds"]))


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


@pytest.mark.long
@pytest.mark.skipif(not load_adapter.STATUS.exists(), reason="resident memory is read from /proc")
def test_loading_an_adapter_takes_little_beside_its_base(tmp_path: Path) -> None:
    file = tmp_path / "load.json"
    load_adapter.main(["--small", "--folder", str(tmp_path), "--json", str(file)])
    (row,) = json.loads(file.read_text())["results"]
    assert row["base_bytes"] == 2 * row["base_parameters"] > 10 * row["adapter_bytes"]
    # The limit of the full case is 1.1; what Python itself takes on the way counts for more here.
    assert row["peak_over_base"] < 1.2


@needs_assembler
def test_the_code_of_a_kernel_is_counted(tmp_path: Path, monkeypatch) -> None:
    import kernel_code

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    file = tmp_path / "code.json"
    kernel_code.main(["--small", "--json", str(file)])
    record = json.loads(file.read_text())
    assert set(record) == MACHINE | {"roofline", "before"}
    (row,) = record["results"]
    (loop,) = row["loops"]
    # A thread has the position's eight components of one channel: an exponential each, and two multiply-adds at least.
    assert loop["exponentials"] == 8 and loop["arithmetic"] >= 16
    assert loop["instructions"] > loop["arithmetic"] + loop["special"] + loop["memory"]


@needs_assembler
def test_the_roofline_counts_the_bytes_of_the_tensors() -> None:
    import kernel_code

    record = json.loads(kernel_code.RESULT.read_text())
    works = {work.name: work for work in kernel_code.WORKS}
    assert {row["work"] for row in record["roofline"]} == set(works)
    for row in record["roofline"]:
        components, channels = kernel_code.SHAPES[works[row["work"]].shape]
        size = (row["positions"],)
        means, logweights = (torch.empty(components * each, *size, dtype=torch.bfloat16, device="meta").nbytes
                             for each in (channels, 1))  # fmt: skip
        state = torch.empty(channels, *size, device="meta").nbytes
        parameters, back = means + logweights, row["kernel"] == "backward"
        # x, x_s and the result; or x, x_s, both gradients of states, and the path there and back.
        states = 4 + 2 * row["substeps"] if back else 3
        assert row["bytes"] == parameters * (1 + back) + states * state
        assert row["least_microseconds"] == max(row["microseconds"].values()) <= row["most_microseconds"]


def test_no_kernel_of_the_record_waits_or_spills_in_a_loop() -> None:
    """What the table says: a position takes fewer instructions than before, whoever of its threads issues them."""
    record = json.loads((Path(rollout.__file__).parent / "results" / "kernel-code.json").read_text())
    for before, row in zip(record["before"], record["results"], strict=True):
        assert all(before[name] == row[name] for name in ("shape", "kernel", "dtype", "capability"))
        assert row["barriers"] == row["shared"] == 0 and not any(loop["spills"] for loop in row["loops"])
        assert len(row["loops"]) == (1 if row["kernel"] == "forward" else 2)
        klanes, clanes = row["lanes"]
        was, now = (sum(loop["instructions"] for loop in one["loops"]) for one in (before, row))
        assert klanes * clanes * now < before["threads_a_position"] * was


def test_counts_of_launches_stand_beside_those_of_another_package(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "counts.json"
    for column, added in (("before", 3), ("after", 0)):
        counts = {"gm": {"rollout": {"forward_kernel": 1, "add": added, launch_counts.CALLS: 20}}}
        monkeypatch.setattr(launch_counts, "counted", lambda package, counts=counts: counts)
        launch_counts.main(["--column", column, "--json", str(file)])
    (row,) = json.loads(file.read_text())["results"]
    assert (row["before"]["launches"], row["after"]["launches"], row["after"]["calls"]) == (4, 1, 20)


def test_the_cost_benchmark_holds_steps_against_their_evaluations(tmp_path: Path) -> None:
    file = tmp_path / "cost.json"
    cost.main(["--small", "--rounds", "1", "--json", str(file)])
    rows = json.loads(file.read_text())["time"]
    assert [(row["evaluations"], row["predicted"]) for row in rows] == [(160, 1), (320, 2), (10, 1), (10, 1)]
    assert rows[0]["measured"] == rows[2]["measured"] == 1


@pytest.mark.long
def test_the_budget_benchmark_runs_both_ways(tmp_path: Path) -> None:
    file = tmp_path / "budget.json"
    told = ["--clock", "processor", "--budget", "30s", "--seeds", "0", "--images", "40", "--json", str(file)]
    budget.main(told)
    record = json.loads(file.read_text())
    assert [row["run"] for row in record["rows"]] == ["budget", "200 iterations, cut off"]
    assert all(row["iterations"] > 0 and row["to_data"] > 0 for row in record["rows"])
    assert record["clock"] == "processor" and record["means"][0]["seconds"]["error"] is None


@pytest.mark.long
def test_the_table_of_quality_has_a_row_for_each_length(tmp_path: Path) -> None:
    file = tmp_path / "quality.json"
    told = ["--runs", str(tmp_path), "--iterations", "1,2", "--seeds", "0", "--images", "40", "--json", str(file)]
    quality.main(told)
    rows = json.loads(file.read_text())["rows"]
    assert [(row["iterations"], row["evaluations"], len(row["values"])) for row in rows] == [(1, 640, 1), (2, 1280, 1)]
