"""`piflow doctor` with some of its checks, made in this process, and what may be wrong with torch and its GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from piflow_cli.core import rollout
from piflow_cli.core.kernels import switched_off
from piflow_cli.doctor import CHECKS, Examined
from piflow_cli.doctor.findings import Probe, works

Patch = pytest.MonkeyPatch
# Without it no training is possible, and a real one takes seconds.
STEP = Probe("step", partial(works, "a step", {"device": "cpu"}), "is what a training is made of")

# Read when the Hub's client is imported, so typed in test_hints_of_doctor.py, in a process of its own.
IN_A_SHELL = {"doctor/places.py: export HF_HOME=DIR"}


def ask_only(patch: Patch, name: str) -> None:
    """The command makes the check of that name, in this process, and finds that a step of training works."""

    def examine(checks: Sequence[Probe]) -> list[Examined]:
        return [Examined(check, check.find(), 0.0) for check in checks]

    patch.setattr("piflow_cli.doctor.CHECKS", (*[check for check in CHECKS if check.name == name], STEP))
    patch.setattr("piflow_cli.doctor.examine", examine)


def said_by_a_check(out: str, hint: re.Pattern[str]) -> tuple[str, str]:
    """The line of a check, and the hint that is in it, or below it behind an arrow."""
    lines = out.splitlines()
    found = next(((number, match[0]) for number, line in enumerate(lines) if (match := hint.search(line))), None)
    assert found is not None, out
    return lines[found[0] - ("→ " in lines[found[0]])], found[1]


def misbuilt(patch: Patch, package: str) -> None:
    """torch was built for another GPU, on which its products are other numbers."""
    patch.setattr("piflow_cli.doctor.computing._multiplies_in_bf16", lambda device: False)


def outdated(patch: Patch, package: str) -> None:
    """The package is older than the oldest that will do."""
    patch.setattr(import_module(package), "__version__", "2.5.1")


def wrong_kernels(patch: Patch, told: str) -> None:
    """Where kernels are not switched off, rollouts are twice what they should be."""
    whole = rollout.rollout_through

    def doubled(*given: Any, **named: Any) -> list[torch.Tensor]:
        return [state * (1 if switched_off() else 2) for state in whole(*given, **named)]

    patch.setattr(rollout, "rollout_through", doubled)


def unseen_gpu(patch: Patch, told: str) -> None:
    """The driver sees a GPU, which the environment hides from torch."""
    patch.setattr("piflow_cli.doctor.machine.seen_by_the_driver", lambda: [["580.1", "NVIDIA H100", "81559 MiB"]])
    patch.setattr(torch.cuda, "is_available", lambda: "CUDA_VISIBLE_DEVICES" not in os.environ)
    patch.setattr(torch.cuda, "init", lambda: None)
    patch.setattr(torch.version, "cuda", "13.0")


def built_for_cpu(patch: Patch, package: str) -> None:
    """The driver sees a GPU, and torch was built without CUDA."""
    unseen_gpu(patch, package)
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(torch.version, "cuda", None)


def uncompiled(patch: Patch, lacking: str) -> None:
    """Triton finds no compiler, or one that fails, as the package ``lacking`` is not installed; another is in ./cc."""
    programs, headers = Path.cwd() / "programs", Path.cwd() / "Python.h"
    programs.mkdir()
    _write(Path.cwd() / "cc", "")
    compiler = f"sys.exit(not os.path.exists({str(headers)!r}))"
    installed = {"gcc": partial(_write, programs / "gcc", compiler), "python3-dev": headers.touch}
    installing = f"""
if sys.argv[1] != "install" or not set(sys.argv[2:]) <= {set(installed)}:
    sys.exit("no such command or package")
if "gcc" in sys.argv:
    with open({str(programs / "gcc")!r}, "w", opener=lambda path, flags: os.open(path, flags, 0o755)) as file:
        file.write({_program(compiler)!r})
if "python3-dev" in sys.argv:
    open({str(headers)!r}, "w").close()
"""
    _write(programs / "apt", installing)
    for package in installed.keys() - {lacking}:
        installed[package]()
    patch.setenv("PATH", str(programs))
    patch.delenv("CC", raising=False)
    patch.setattr("piflow_cli.core.kernels.trial.find_spec", lambda name: name)
    patch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.3.0"))
    patch.setitem(sys.modules, "piflow_cli.core.kernels.triton_trial", SimpleNamespace(product=_compiled_product))


def _compiled_product(device: object) -> float:
    """As Triton looks for a compiler and starts it; tests/core/kernels/test_trial.py has Triton itself."""
    compiler = os.environ.get("CC") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")
    subprocess.check_call([compiler])
    return 6.0


def _program(text: str) -> str:
    return f"#!{sys.executable}\nimport os, sys\n{text}\n"


def _write(file: Path, text: str) -> None:
    file.write_text(_program(text))
    file.chmod(0o755)


OF_MACHINES = (misbuilt, outdated, wrong_kernels, unseen_gpu, built_for_cpu, uncompiled)
