"""The program for a real GPU goes on after whatever happens to a part, and all of it runs on a CPU at a tiny size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import first_hour
import kernel_cases
import numerics
import pytest
import steps
import torch
from accelerate.state import AcceleratorState
from first_hour import DONE, NEEDS_GPU, NO_TIME, Part

from piflow_cli.presets.resolve import available, load
from piflow_cli.students.facts import time_grid

SAYS = "import json; print(json.dumps({'versions': {'torch': '2'}, 'device': 'a GPU', 'threads': None, 'date': 'now'}))"
FINE = Part("fine", ("-c", SAYS), 60, stdout=True)
FAILS = Part("fails", ("-c", "import sys; print('{}'); sys.exit('no such kernel')"), 60, stdout=True)
DIES = Part("dies", ("-c", "import os; os.abort()"), 60)
HALF = "import sys, time; open(sys.argv[4], 'w').write('{\"results\": [1]}'); time.sleep(600)"
HANGS = Part("hangs", ("-c", HALF), 3)
MOMENTUM = "momentum of FLUX in packed tokens"
GPU = Part("gpu", ("-c", ""), 60, needs_gpu=True)


def states(record: dict) -> dict[str, str]:
    return {name: outcome["state"] for name, outcome in record["parts"].items()}


@pytest.mark.long
def test_what_fails_is_written_down_and_the_next_part_begins(tmp_path: Path) -> None:
    record = first_hour.go([FAILS, DIES, HANGS, GPU, FINE], tmp_path / "r.json", "cpu", 300)
    assert states(record) == {
        "fails": "failed: exit code 1",
        "dies": "failed: signal 6",
        "hangs": "failed: not done after 3 seconds",
        "gpu": NEEDS_GPU,
        "fine": DONE,
    }
    assert record == json.loads((tmp_path / "r.json").read_text())
    assert "no such kernel" in record["parts"]["fails"]["said"]
    # What a part has written before it was killed is kept.
    assert record["parts"]["hangs"]["result"] == {"results": [1]}
    assert record["machine"] == {"versions": {"torch": "2"}, "device": "a GPU", "threads": None, "date": "now"}


def test_the_same_command_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    counted = f"open({str(tmp_path / 'count')!r}, 'a').write('x'); print('{{}}')"
    part, path = Part("counted", ("-c", counted), 60, stdout=True), tmp_path / "r.json"
    assert states(first_hour.go([part, FINE], path, "cpu", 0)) == {"counted": NO_TIME, "fine": NO_TIME}
    assert states(first_hour.go([part], path, "cpu", 100)) == {"counted": DONE, "fine": NO_TIME}
    assert states(first_hour.go([part, FINE], path, "cpu", 100)) == {"counted": DONE, "fine": DONE}
    assert (tmp_path / "count").read_text() == "x"
    with pytest.raises(SystemExit, match="was begun with --device cpu"):
        first_hour.go([FINE], path, "cuda", 100)


def test_every_part_is_a_program_that_is_there() -> None:
    names = [part.name for part in first_hour.PARTS]
    assert len(set(names)) == len(names) and names.index("numerics") == 1
    assert all(Path(part.program[0]).exists() for part in first_hour.PARTS if part.program[0] != "-m")
    families = {load(part.program[1]).teacher.family for part in first_hour.PARTS if part.name.startswith("step of ")}
    assert families == {load(name).teacher.family for name in available()}
    # Beside the longest part there is time for what is worth more.
    assert sum(part.seconds for part in first_hour.PARTS[:2]) < 300


@pytest.mark.long
def test_on_a_cpu_the_parts_of_a_gpu_say_so(tmp_path: Path, capsys) -> None:
    told = ["--device", "cpu", "--output", str(tmp_path / "r.json"), "--only", "numerics", "--only", "flux2"]
    assert first_hour.main(told) == 0
    record = json.loads((tmp_path / "r.json").read_text())
    steps = {f"step of flux2-{name}": NEEDS_GPU for name in ("klein", "dev", "klein-edit", "dev-edit")}
    assert states(record) == {"numerics": DONE, **steps}
    assert record["machine"]["versions"]["torch"] == version("torch") and "numerics" in capsys.readouterr().out
    rows = record["parts"]["numerics"]["result"]["results"]
    assert {row["case"] for row in rows} == {case.name for case in numerics.CASES}
    measured = [row for row in rows if row["what"] != "needs a GPU"]
    assert all(row["within"] and row["error"] < 0.01 for row in measured)
    assert {row["case"] for row in rows} - {row["case"] for row in measured} == {"offsets beyond 2^31"}


def test_the_numerics_are_of_every_shipped_preset() -> None:
    """Kind, components, shift and segment of each; presets with the same numbers share a case."""

    def key(preset) -> tuple:
        policy = preset.policy
        small = preset.teacher.family.startswith(("dit", "sd15", "sdxl"))
        return policy.kind, policy.components, policy.shift, pytest.approx(time_grid(preset).segment), small

    cases = {name: case for case in numerics.CASES for name in case.presets}
    found = {
        name: (case.kind, case.parts, case.shift, case.segment, case.shape[1] in (1, 4)) for name, case in cases.items()
    }
    assert {name: key(load(name)) for name in available()} == found


def test_a_wrong_kernel_is_not_within(monkeypatch) -> None:
    whole = numerics.rollout.mean_velocity
    monkeypatch.setattr(numerics.rollout, "mean_velocity", lambda *given, **named: 1.001 * whole(*given, **named))
    rows = numerics.measure(numerics.small(numerics.CASES[0]), torch.device("cpu"))
    assert {row["what"].split(" of ")[0]: row["within"] for row in rows} == {
        "states": True,
        "mean velocity": False,
        "gradient": False,
    }


@pytest.mark.long
@pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None or shutil.which("cc") is None or torch.version.cuda is None,
    reason="needs Linux, Triton, a C compiler and a CUDA build of torch",
)
def test_on_the_gpu_that_is_not_there_every_answer_comes_from_a_kernel(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(first_hour.TESTS / "fake_cuda"))
    import no_gpu

    environment = no_gpu.environment(no_gpu.library(tmp_path))
    program = [
        sys.executable,
        str(first_hour.HERE / "on_no_gpu.py"),
        "digits",
        "DX of video",
        MOMENTUM,
        "offsets beyond 2^31",
    ]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["case"], one["rows"]) for one in found] == [
        ("digits", 6),
        ("DX of video", 4),
        (MOMENTUM, 5),
        ("offsets beyond 2^31", 6),
    ]
    assert all(sum(one["launches"].values()) >= 2 for one in found)
    # States, mean velocity and gradients are a launch each at least.
    assert all(any("backward" in name for name in one["launches"]) for one in (found[0], found[3]))
    assert found[2]["launches"] == {"momentum_kernel": 2, "momentum_adjoint_kernel": 1}


def test_offsets_of_the_large_case_are_beyond_32_bits() -> None:
    (case,) = [case for case in numerics.CASES if case.large]
    elements = case.parts
    for size in case.shape:
        elements *= size
    assert elements > 2**31
    assert any(len(case.shape) == 5 and case.kind == "gm" for case in numerics.CASES)


@pytest.fixture
def own_accelerator() -> Iterator[None]:
    """accelerate keeps the precision of a process for good."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.long
@pytest.mark.parametrize("name", ["digits", "z-image"])
def test_a_step_on_a_cpu_is_finite_and_estimated(own_accelerator, tmp_path: Path, name: str) -> None:
    assert steps.main([name, "--device", "cpu", "--small", "--json", str(tmp_path / "s.json")]) == 0
    (row,) = json.loads((tmp_path / "s.json").read_text())["results"]
    assert row["finite"] and len(row["losses"]) == steps.ROUNDS + 4 and min(row["gradient_norms"]) > 0
    assert row["estimate_bytes"]["peak"] > row["estimate_bytes"]["base"] > 0
    assert row["peak_bytes"] is row["estimate_over_peak"] is None and row["waits"] == {}


def test_the_report_of_the_cases_is_read(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text("def test_one():\n    pass\n\n\ndef test_two():\n    assert 1 == 2\n")
    report = tmp_path / "report.xml"
    told = ["-q", "-n", "0", "-p", "no:cacheprovider", "-c", "/dev/null", f"--junitxml={report}", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pytest", *told], cwd=tmp_path, capture_output=True)
    first, second = kernel_cases.rows_of(report)
    assert (first["case"], first["passed"]) == ("test_one", True) and "said" not in first
    assert (second["case"], second["passed"]) == ("test_two", False) and "1 == 2" in second["said"]
