"""The most memory of a training step on a GPU that is not there, beside the dry run's estimate of it.

    python tests/fake_cuda/peaks.py [PRESET ...] [--full] [--set KEY=VALUE] [--json FILE]

Without names it takes all shipped presets, with one block of each kind, as wide as ever; ``--full`` takes the networks
as they are. It prints a JSON object a preset; in FILE it replaces that of the same preset. Of more than two segments,
or two rounds of accumulation, two are traced: from the second on gradients are there, and nothing else changes. Moments
are those of plain AdamW in trace and estimate, since bitsandbytes' kernels know no fake tensors; ``shipped`` is the
estimate under the preset's own optimiser. What libraries allocate of their own accord (cuBLAS, cuDNN), the CUDA
context, and fragments that the allocator cannot use come on top.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import no_gpu
import torch
from cases import PRESETS
from kept import keep
from torch._subclasses.fake_tensor import FakeTensorMode

if TYPE_CHECKING:
    from memory import Allocations

    from piflow_cli.training.dry_run.memory import Estimate
    from piflow_cli.training.loop import Session

TRACED = 2  # segments or rounds
SHOWN = 5


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
            keep(options.json, "peaks", [row], "preset", PRESETS)
    return 0


def row_of(preset: str, settings: Sequence[str] = (), *, small: bool) -> dict[str, Any]:
    """Trace and estimate of a preset, in bytes."""
    with traced_session(preset, settings, small=small) as (session, allocations):
        traced = trace_step(session, allocations)
    facts = {"preset": preset, "settings": list(settings), "blocks": "one of each kind" if small else "all"}
    return facts | {"batch": session.batches.device_batch} | compared(traced, estimate_of(session), preset)


def compared(traced: dict[str, Any], estimate: Estimate, preset: str) -> dict[str, Any]:
    """The estimate beside a trace, and what it would be under the optimiser of the preset."""
    from piflow_cli.presets.resolve import load
    from piflow_cli.training.dry_run.memory import MOMENT_BYTES, WIDE

    moments = MOMENT_BYTES[load(preset).optimisation.optimizer] * estimate.adapters / WIDE
    return {
        "estimate": int(estimate.peak),
        "traced": traced["traced"],
        "ratio": round(estimate.peak / traced["traced"], 4),
        "shipped": round(estimate.peak - estimate.optimiser + moments),
        **{name: traced[name] for name in ("standing", "attention", "largest")},
    }


@contextmanager
def traced_session(preset: str, settings: Sequence[str], *, small: bool) -> Iterator[tuple[Session, Allocations]]:
    """The session of a preset under its own device batch, every allocation of which is traced while this is open."""
    from accelerate.state import AcceleratorState
    from kernels import Launches
    from memory import Allocations
    from sessions import parameters_that_move, session_of
    from watching import Watch

    from piflow_cli.presets.families import CLASS, boundary_of, conditioning_of
    from piflow_cli.presets.resolve import load
    from piflow_cli.presets.two_networks import shifts_onto

    shipped = load(preset)
    whole, batch = shipped.optimisation.batch_size, shipped.optimisation.device_batch_size
    traced = replace(shipped.policy, nfe=min(TRACED, shipped.policy.nfe))
    segments = [f"policy.nfe={traced.nfe}"]
    if (boundary := boundary_of(shipped.teacher.family)) is not None:
        segments.append(f"policy.shift={shifts_onto(boundary, traced)[0]}")
    batch = whole if batch is None else batch
    rounds = min(TRACED, whole // batch) if conditioning_of(shipped.teacher.family) == CLASS else 1
    AcceleratorState._reset_state(True)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, parameters_that_move(), Watch(mode) as watch, Launches(()), Allocations() as allocations:
        session = session_of(preset, [*segments, *settings], small=small, batch=batch, rounds=rounds)
        # Mixing, warm-up and the first step of the average are over.
        session.iteration, watch.host_is_real = 100_000, True
        yield session, allocations


def trace_step(session: Session, allocations: Allocations) -> dict[str, Any]:
    """Bytes of a step that is not the first: those that stand before it, the most in it, and the largest tensors then.

    The optimiser has its moments already.
    """
    from piflow_cli.training.loop import train_step

    for value in session.student.model.parameters():
        value.grad = torch.zeros_like(value)
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    begun, standing = len(allocations.events), allocations.live()[-1]
    train_step(session)
    peak, alive = allocations.peak(begun)
    return {
        "traced": peak,
        "standing": standing,
        "attention": sorted({held.operation for held in allocations.all if "attention" in held.operation}),
        "largest": [
            {"bytes": held.bytes, "shape": list(held.shape), "dtype": str(held.dtype)[6:], "place": held.place}
            for held in alive[:SHOWN]
        ],
    }


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


if __name__ == "__main__":
    sys.exit(main())
