"""`piflow doctor` with some of its checks, made in this process, and what may be wrong with torch and its GPU."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from importlib import import_module
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
    whole = rollout.rollout

    def doubled(*given: Any, **named: Any) -> torch.Tensor:
        return whole(*given, **named) * (1 if switched_off() else 2)

    patch.setattr(rollout, "rollout", doubled)


def unseen_gpu(patch: Patch, told: str) -> None:
    """The driver sees a GPU, which the environment hides from torch."""
    patch.setattr("piflow_cli.doctor.machine.seen_by_the_driver", lambda: [["580.1", "NVIDIA H100", "81559 MiB"]])
    patch.setattr(torch.cuda, "is_available", lambda: "CUDA_VISIBLE_DEVICES" not in os.environ)
    patch.setattr(torch.cuda, "init", lambda: None)
    patch.setattr(torch.version, "cuda", "13.0")


OF_MACHINES = (misbuilt, outdated, wrong_kernels, unseen_gpu)
