"""What every test stands on: a fixed terminal, reproducible hypothesis runs, and the command line as a function."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from types import ModuleType

import pytest
from hypothesis import settings

# Read when the help is first drawn, so set before anything is imported.
os.environ.update(TERMINAL_WIDTH="80", NO_COLOR="1", COLUMNS="80")
os.environ.pop("PIFLOW_DEBUG", None)

settings.register_profile("piflow", deadline=None, derandomize=True)
settings.load_profile("piflow")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`cli("distill", "--teacher", "digits")` through the console script's own entry point."""
    from piflow_cli.app import main

    def run(*args: str) -> Outcome:
        code = main(list(args))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: object) -> None:
    """Put a module in the place of one whose import alone takes seconds."""
    module = ModuleType(f"piflow_cli.{name}")
    for key, value in attributes.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, f"piflow_cli.{name}", module)


class Training:
    """Stands in for piflow_cli.training and remembers what it was asked."""

    def __init__(self) -> None:
        self.runs: list[dict] = []
        self.failure: BaseException | None = None

    def describe(self, preset, device):
        return {"preset": preset.name, "policy": {"kind": preset.policy.kind, "nfe": preset.policy.nfe}, "device": device}

    def distill(self, preset, output, device, resume, console):
        if self.failure is not None:
            raise self.failure
        self.runs.append({"preset": preset, "output": output, "device": device, "resume": resume})
        console.say("training")
        return {"output": output, "loss": math.nan}


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    recorder = Training()
    fake_module(monkeypatch, "training", describe=recorder.describe, distill=recorder.distill)
    return recorder


SampleRequest = make_dataclass(
    "SampleRequest",
    "student teacher labels seeds steps substeps temperature stochastic output grid metadata device batch_size".split(),
    frozen=True,
)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[SampleRequest]:
    """What `piflow sample` asks of the library, in place of its answer."""
    asked: list[SampleRequest] = []

    def sample(request, console):
        asked.append(request)
        return {"images": len(request.seeds)}

    fake_module(monkeypatch, "sampling", SampleRequest=SampleRequest, sample=sample)
    return asked
