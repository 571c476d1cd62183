"""The dry run's estimate of memory against the allocations of a step on a GPU that is not there.

`PIFLOW_CUDA=all pytest -n 0 -m long tests/fake_cuda` takes every shipped preset in full size.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from cases import UNTRACED

from piflow_cli.presets.resolve import available

HERE = Path(__file__).parent
FULL = os.environ.get("PIFLOW_CUDA") == "all"
RESULTS = HERE.parent / "benchmarks" / "results" / "peaks-fake-cuda.json"
needs_cuda_build = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None or shutil.which("cc") is None or torch.version.cuda is None,
    reason="needs Linux, Triton, a C compiler and a CUDA build of torch",
)
TRACED = sorted(set(available()) - set(UNTRACED))
# Trained in full in float32; the same in bfloat16 with checkpointing; with adapters, a text and guidance.
QUICK = ("digits", "imagenet-repa", "flux2-klein")

SETTINGS = ("adapter.base_precision=fp8", "optimisation.gradient_checkpointing=false", "optimisation.precision=fp32")


def rows(presets: Sequence[str], *options: str) -> dict[str, dict]:
    command = [sys.executable, str(HERE / "peaks.py"), *presets, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["preset"]: row for row in found}


@pytest.mark.long
@needs_cuda_build
def test_the_estimate_is_within_a_tenth_of_what_is_allocated() -> None:
    found = rows(TRACED, "--full") if FULL else rows(QUICK)
    assert {name: row["ratio"] for name, row in found.items() if not 0.9 < row["ratio"] < 1.1} == {}
    assert set(found) == set(TRACED if FULL else QUICK)


@pytest.mark.long
@needs_cuda_build
@pytest.mark.parametrize("setting", SETTINGS if FULL else SETTINGS[:1])
def test_the_estimate_follows_the_settings_that_save_memory(setting: str) -> None:
    (row,) = rows(["flux2-klein"], "--set", setting).values()
    assert row["ratio"] == pytest.approx(1, abs=0.1)


def test_the_table_holds_all_presets_in_full_size_and_all_within_a_tenth() -> None:
    kept = json.loads(RESULTS.read_text())["results"]
    assert sorted(row["preset"] for row in kept) == TRACED
    assert all(row["blocks"] == "all" and row["settings"] == [] for row in kept)
    assert all(row["ratio"] == pytest.approx(row["estimate"] / row["traced"], abs=1e-4) for row in kept)
    assert {row["preset"]: row["ratio"] for row in kept if not 0.9 < row["ratio"] < 1.1} == {}
    assert all(len(row["largest"]) == 5 and row["largest"][0]["bytes"] < row["traced"] for row in kept)
