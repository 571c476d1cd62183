"""Training and sampling on a GPU that is not there: devices, kernels, waits and launches of every shipped preset.

Networks of some presets have one block of each kind. `pytest -m thorough tests/fake_cuda` takes all presets, in full
size where that takes under a minute, and `PIFLOW_CUDA=all` before it all of them so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from cases import CASES, CONVERTED, EXTRACTORS, PRESETS, UNTRACED, WHOLE
from evaluations import those_that_differ

from piflow_cli.presets.choices import BITSANDBYTES
from piflow_cli.presets.resolve import available, load
from piflow_cli.teachers import family_of

HERE = Path(__file__).parent
FULL = os.environ.get("PIFLOW_CUDA") == "all"
RESULTS = HERE.parent / "benchmarks" / "results" / "fake-cuda.json"
KERNELS = {
    "forward_kernel", "backward_kernel", "table_kernel", "map_kernel", "apply_kernel", "adjoint_kernel",
    "momentum_kernel", "momentum_adjoint_kernel",
}  # fmt: skip
ROLLOUTS = ("rollout", "packed rollout", "stochastic rollout", "packed stochastic rollout")
# Trained in full, with adapters, guided by two halves and no flow model, and what evaluation computes.
SOME = ("digits", "flux-dev", "imagenet-dit", EXTRACTORS)
WINDOWS = {"windows": 7, "windows of several samples": 12}
needs_cuda_build = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None or shutil.which("cc") is None or torch.version.cuda is None,
    reason="needs Linux, Triton, a C compiler and a CUDA build of torch",
)


def reports(*options: str) -> dict[str, dict]:
    """What :mod:`check` says of each case, by its name."""
    command = [sys.executable, str(HERE / "check.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines and done.returncode in (0, 1), done.stderr[-4000:]
    return {line["case"]: line for line in lines}


def test_every_preset_has_a_case() -> None:
    assert {case.preset for case in CASES} | set(UNTRACED) == {*available(), EXTRACTORS}


def test_only_presets_on_a_base_of_bitsandbytes_have_none() -> None:
    bases = {name: adapter.base_precision for name in available() if (adapter := load(name).adapter) is not None}
    assert set(UNTRACED) == {name for name, base in bases.items() if base in BITSANDBYTES}


@pytest.mark.long
@needs_cuda_build
@pytest.mark.parametrize("chosen", ["some", "small", "large"])
def test_a_gpu_refuses_nothing_waits_only_where_it_may_and_is_launched_on_seldom(chosen: str) -> None:
    """Small presets are taken in full size, large ones and some of both with one block of each kind."""
    small = [preset for preset, seconds in PRESETS.items() if FULL or seconds < WHOLE] + [EXTRACTORS]
    large = [preset for preset in PRESETS if preset not in small]
    presets = {"some": [*SOME], "small": small, "large": large}[chosen]
    if not presets:
        pytest.skip("all are taken in full size")
    found = reports(*presets, *(["--full"] if chosen == "small" else []))
    assert set(found) == {case.name for case in CASES if case.preset in presets}
    assert {name: report["faults"] for name, report in found.items() if report["faults"]} == {}
    asked = [case for case in CASES if case.name in found]
    counted = {
        name: [launches(found[case.name]["launches"].get(name, {})) for case in asked] for name in (*ROLLOUTS, *WINDOWS)
    }
    assert all(max(counts) > 0 for counts in counted.values())
    allowed = [most_launches(case.preset) for case in asked]
    assert all(count <= most for name in ROLLOUTS for count, most in zip(counted[name], allowed, strict=True))
    assert all(max(counted[name]) <= most for name, most in WINDOWS.items())


def test_a_network_is_evaluated_twice_on_each_kind_of_inputs() -> None:
    seen = []

    def call(model: str, x: torch.Tensor, sigma: torch.Tensor, conditioning: dict) -> torch.Tensor:
        seen.append((model, x.dtype, x.stride(), sorted(conditioning)))
        return x.new_zeros(2, 5).t()

    evaluate, x, sigma = those_that_differ(call), torch.ones(2, 3), torch.ones(2)
    kinds = [
        ("a", x, {}),
        ("b", x, {}),
        ("a", x.bfloat16(), {}),
        ("a", x.t().reshape(2, 3).t(), {}),
        ("a", x, {"y": x}),
    ]
    for model, value, told in kinds:
        answers = [evaluate(model, value, sigma, told) for _ in range(4)]
        assert {(one.shape, one.stride(), one.dtype) for one in answers} == {((5, 2), (1, 5), value.dtype)}
    wanted = [(model, value.dtype, value.stride(), sorted(told)) for model, value, told in kinds for _ in range(2)]
    assert seen == wanted


def launches(counted: dict[str, int]) -> int:
    """The number of launches among what was counted by name."""
    return sum(number for name, number in counted.items() if name != "calls of torch")


def test_the_table_holds_every_case_in_full_size_and_nothing_was_wrong() -> None:
    """`python tests/fake_cuda/check.py --full --json tests/benchmarks/results/fake-cuda.json` makes it."""
    kept = json.loads(RESULTS.read_text())["results"]
    assert [row["case"] for row in kept] == [case.name for case in CASES]
    assert all(row["blocks"] == "all" for row in kept)
    assert {row["case"]: row["faults"] for row in kept if row["faults"]} == {}
    assert {name for row in kept for name in row["kernels"]} == KERNELS
    for case, row in zip(CASES, kept, strict=True):
        if case.preset != EXTRACTORS:
            assert row["copies"]["step"] >= case.rounds and sum(row["waits"]["step"].values()) >= 1
            name = "windows" if case.batch == 1 else "windows of several samples"
            assert 0 < row["launches"][name] <= WINDOWS[name]
            # Without a sampling there is no rollout of unpacked states.
            names, most = ROLLOUTS if case.nfes else ROLLOUTS[1:], most_launches(case.preset)
            assert all(0 < row["launches"][name] <= most for name in names)


def most_launches(preset: str) -> int:
    """Of a rollout; predictions of networks that are no flow models become velocities first."""
    flow = preset == EXTRACTORS or family_of(load(preset).teacher.family).parameterisation.flow
    return 4 if flow else 4 + CONVERTED


@pytest.mark.long
@needs_cuda_build
def test_each_planted_fault_is_seen() -> None:
    found = reports("imagenet-fm", "--planted")
    assert len(found) == 6
    seen = {name: " ".join(report["faults"]) for name, report in found.items()}
    assert "_to_copy" in seen["back_to_the_host"]
    assert "same device" in seen["on_the_wrong_device"]
    assert "_local_scalar_dense" in seen["an_item"]
    assert "CompilationError" in seen["a_constant_that_is_called"]
    assert "float" in seen["an_argument_of_the_wrong_type"]
    assert "rollout of gm: 3 launches" in seen["a_launch_more"]
    assert "windows of gm: 8 launches" in seen["a_launch_more"]
