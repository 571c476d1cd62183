"""Runs files of cases of Triton kernels, each in a process of its own.

Triton decides at import whether it interprets its kernels.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def run(*arguments: str, **environment: str) -> None:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *arguments], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.long
@needs_triton
@pytest.mark.parametrize("name", ["triton_cases.py", "momentum_triton_cases.py"])
def test_the_kernels_equal_their_twins(name: str) -> None:
    cases = str(HERE / name)
    run(
        "-m",
        "pytest",
        *("-n", "0", "-p", "no:cacheprovider"),
        cases,
        TRITON_INTERPRET="0" if torch.cuda.is_available() else "1",
    )


@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="Triton brings an assembler for Linux alone")
@pytest.mark.long
@pytest.mark.parametrize("integers", ["1", "16", "17"])
def test_the_kernels_compile_for_gpus_without_one(tmp_path: Path, integers: str) -> None:
    """Whatever the integers, a position stays in the registers of its threads, and nothing waits for other warps.

    Local memory and barriers would cost the speed. A batch of one sample is what every large preset trains and samples.
    """
    script = HERE / "compile_kernels.py"
    benchmarks = HERE.parent.parent / "benchmarks"
    run(str(script), integers, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path), PYTHONPATH=str(benchmarks))
