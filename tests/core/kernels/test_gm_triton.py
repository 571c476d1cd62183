"""Runs triton_cases.py in a process of its own: Triton decides at import whether it interprets its kernels."""

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


@needs_triton
def test_the_kernels_equal_their_twins() -> None:
    cases = str(Path(__file__).with_name("triton_cases.py"))
    run(
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        cases,
        TRITON_INTERPRET="0" if torch.cuda.is_available() else "1",
    )


@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="Triton brings an assembler for Linux alone")
@pytest.mark.parametrize("integers", ["any", "ones"])
def test_the_kernels_compile_for_gpus_without_one(tmp_path: Path, integers: str) -> None:
    """Compiled for Ampere and Hopper, whatever the integers, they take no more registers than there are.

    Local memory would cost the speed. A batch of one sample is what every large preset trains and samples.
    """
    script = str(Path(__file__).with_name("compile_kernels.py"))
    run(script, integers, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
