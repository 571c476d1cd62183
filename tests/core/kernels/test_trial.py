"""One launch decides whether kernels are used: what it says where something of Triton is missing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from piflow_cli.core import kernels
from piflow_cli.core.kernels import trial

CUDA = torch.device("cuda", 0)
SAYS = "import torch; from piflow_cli.core.kernels.trial import launch_fault; print(launch_fault(torch.device('cuda')))"
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
needs_no_gpu = pytest.mark.skipif(
    sys.platform != "linux" or torch.version.cuda is None or not Path("/usr/bin/cc").exists(),
    reason="needs Linux, a CUDA build of torch, and a C compiler that a test can hide",
)


@pytest.fixture(autouse=True)
def chosen_anew():
    kernels._chosen.cache_clear()
    yield
    kernels._chosen.cache_clear()


def answer(program: str, **variables: str) -> str:
    # A command that ran in this process may have said how memory is to be asked for.
    kept = {name: value for name, value in os.environ.items() if name != "CC" and not name.endswith("ALLOC_CONF")}
    environment = kept | variables
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_triton
def test_the_kernel_of_the_trial_multiplies() -> None:
    program = "import torch; from piflow_cli.core.kernels.triton_trial import product; print(product(torch.device({})))"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    interpreted = "0" if torch.cuda.is_available() else "1"
    assert float(answer(program.format(repr(device)), TRITON_INTERPRET=interpreted)) == 6


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_reference_is_taken_with_a_warning(caplog) -> None:
    with caplog.at_level(logging.INFO, logger="piflow.kernels"):
        assert [kernels.backend(device) for device in (CUDA, CUDA, "cuda:0")] == [None] * 3
    (record,) = caplog.records
    assert (
        record.levelname == "WARNING" and "reference loop, many times slower (a trial launch failed: " in record.message
    )


@needs_triton
@needs_no_gpu
def test_a_machine_without_a_c_compiler_is_told_so(tmp_path: Path, monkeypatch) -> None:
    """On a GPU that is not there: torch gives memory on it, and Triton comes as far as its compiler."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "fake_cuda"))
    import no_gpu

    library = no_gpu.library(tmp_path)
    without_cc = {name: value for name, value in no_gpu.environment(library).items() if name != "CC"}
    empty = {"PATH": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "cache"), "TRITON_LIBCUDA_PATH": str(tmp_path)}
    said = answer(SAYS, **{**without_cc, **empty})
    assert said.startswith("a trial launch failed: there is no C compiler") and "apt install gcc" in said
    fails = answer(SAYS, **{**without_cc, **empty, "CC": "/usr/bin/false"})
    assert fails.startswith("a trial launch failed: the C compiler fails") and "apt install gcc python3-dev" in fails


def test_a_triton_that_takes_no_tuples_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(trial, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.2.0"))
    assert trial.launch_fault(CUDA) == 'Triton 3.2.0 takes no tuples for a kernel: pip install "torch>=2.7"'


def test_a_wrong_answer_is_a_fault(monkeypatch) -> None:
    monkeypatch.setattr(trial, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.10.1+git"))
    place = "piflow_cli.core.kernels.triton_trial"
    for found, fault in ((6.0, None), (5.0, "a trial launch answered 5 for 2 times 3")):
        monkeypatch.setitem(sys.modules, place, SimpleNamespace(product=lambda device, found=found: found))
        assert trial.launch_fault(CUDA) == fault
