"""The most memory of a training step on a GPU that is not there, beside the dry run's estimate of it.

    python tests/fake_cuda/peaks.py [PRESET ...] [--full] [--set KEY=VALUE] [--json FILE]

Without names it takes all shipped presets, with one block of each kind, as wide as ever; ``--full`` takes the networks
as they are. It prints a JSON object a preset; in FILE it replaces those of the same presets. Of more than two segments,
or two rounds of accumulation, two are traced: from the second on gradients are there, and nothing else changes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import no_gpu
import torch
from cases import PRESETS
from torch._subclasses.fake_tensor import FakeTensorMode

if TYPE_CHECKING:
    from memory import Allocations, Held

    from piflow_cli.training.dry_run.memory import Estimate
    from piflow_cli.training.loop import Session

TRACED = 2  # segments or rounds
SHOWN = 5


@dataclass(frozen=True)
class Traced:
    """A step that was traced: bytes that stand before it, the most in it, and the largest that were held then."""

    standing: int
    peak: int
    largest: list[Held]
    attention: list[str]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("presets", nargs="*")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if "libcuda.so.1" not in os.environ.get("LD_PRELOAD", ""):
        made = no_gpu.library(Path(tempfile.mkdtemp()))
        os.execve(sys.executable, [sys.executable, *sys.argv], no_gpu.environment(made))
    import diffusers.loaders.peft  # noqa: F401  before its imports would make fake tensors

    for preset in options.presets or PRESETS:
        row = row_of(preset, options.settings, small=not options.full)
        print(json.dumps(row), flush=True)
        if options.json is not None:
            keep(options.json, row)
    return 0


def row_of(preset: str, settings: Sequence[str] = (), *, small: bool) -> dict[str, Any]:
    """Trace and estimate of a preset, in bytes."""
    with traced_session(preset, settings, small=small) as (session, allocations):
        traced = trace_step(session, allocations)
    estimate = estimate_of(session)
    return {
        "preset": preset,
        "settings": list(settings),
        "blocks": "one of each kind" if small else "all",
        "batch": session.batches.device_batch,
        "estimate": estimate.peak,
        "traced": traced.peak,
        "ratio": round(estimate.peak / traced.peak, 4),
        "standing": traced.standing,
        "attention": traced.attention,
        "largest": [
            {"bytes": held.bytes, "shape": list(held.shape), "dtype": str(held.dtype)[6:], "place": held.place}
            for held in traced.largest
        ],
    }


@contextmanager
def traced_session(preset: str, settings: Sequence[str], *, small: bool) -> Iterator[tuple[Session, Allocations]]:
    """The session of a preset under its own device batch, every allocation of which is traced while this is open."""
    from accelerate.state import AcceleratorState
    from kernels import Launches
    from memory import Allocations
    from sessions import parameters_that_move, session_of
    from watching import Watch

    from piflow_cli.presets.families import CLASS, told
    from piflow_cli.presets.resolve import load

    shipped = load(preset)
    whole, batch = shipped.optimisation.batch_size, shipped.optimisation.device_batch_size
    segments = [f"policy.nfe={min(TRACED, shipped.policy.nfe)}"]
    batch = whole if batch is None else batch
    rounds = min(TRACED, whole // batch) if told(shipped.teacher.family) == CLASS else 1
    AcceleratorState._reset_state(True)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, parameters_that_move(), Watch(mode) as watch, Launches(()), Allocations() as allocations:
        session = session_of(preset, [*segments, *settings], small=small, batch=batch, rounds=rounds)
        # Mixing, warm-up and the first step of the average are over.
        session.iteration, watch.host_is_real = 100_000, True
        yield session, allocations


def trace_step(session: Session, allocations: Allocations) -> Traced:
    """A step that is not the first: the optimiser has its moments."""
    from piflow_cli.training.loop import train_step

    for value in session.student.model.parameters():
        value.grad = torch.zeros_like(value)
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    begun, standing = len(allocations.events), allocations.live()[-1]
    train_step(session)
    peak, alive = allocations.peak(begun)
    attention = {held.operation for held in allocations.all if "attention" in held.operation}
    return Traced(standing, peak, alive[:SHOWN], sorted(attention))


def estimate_of(session: Session) -> Estimate:
    """What the dry run says of the same step."""
    from piflow_cli.teachers.text_to_image import TextToImageFamily
    from piflow_cli.training.dry_run import outline

    with (
        mock.patch.object(outline, "outline_folder", lambda *given: Path()),
        mock.patch.object(TextToImageFamily, "text_encoder_bytes", lambda *given: None),
    ):
        found = outline.outline_of(session.preset, session.student.family)
        return outline.memory_of(found, session.batches.device_batch)


def keep(path: Path, row: dict[str, Any]) -> None:
    rows = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([*(old for old in rows if old["preset"] != row["preset"]), row], indent=1))


if __name__ == "__main__":
    sys.exit(main())
