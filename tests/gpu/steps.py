"""A training step and a sampling of a preset on a device: full width, few blocks, random weights.

    python tests/gpu/steps.py PRESET [--device cuda|cpu] [--small] [--json FILE]

It says whether loss, gradients and samples are finite, what the host waits for (torch.cuda.set_sync_debug_mode), which
kernels take the time, and the peak of memory beside the estimate of `piflow distill --dry-run` for such a network.
``--small``: a narrow one.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import places
import torch
from torch.profiler import ProfilerActivity, profile

places.share()
from common import elapsed, machine, write_json  # noqa: E402
from flux_step import SMALL_SETTINGS  # noqa: E402

from piflow_cli.presets.families import CLASS, conditioning_of  # noqa: E402
from piflow_cli.presets.resolve import load  # noqa: E402
from piflow_cli.sampling.denoise import sample_student  # noqa: E402
from piflow_cli.training.dry_run import outline as dry_run  # noqa: E402
from piflow_cli.training.loop import Session, train_step  # noqa: E402
from piflow_cli.training.rows import take_pending  # noqa: E402

# Past warm-up and mixing, where a run spends its time.
ITERATION = 100_000
ROUNDS = 3
BATCHES = {"imagenet-fm": 64, "imagenet-dit": 64, "imagenet64": 32, "digits": 256}
NARROW = SMALL_SETTINGS | {"data.resolution": 64}
LONGER = {"axes_lens": [1024, 32, 32]}  # of the tiny Z-Image: its tests have shorter texts than training
sessions = places.sessions()


def opened(name: str, device: str, narrow: bool) -> Session:
    """The session of a preset, at its batch size on one device."""
    if not narrow:
        return sessions.session_of(name, small=True, batch=BATCHES.get(name, 1), device=device)
    preset = load(name)
    if conditioning_of(preset.teacher.family) == CLASS:
        return sessions.session_of(name, small=True, batch=2, device=device)
    from zoo import ZOO

    row = ZOO[preset.teacher.family]
    sizes = row.config
    sizes |= {key: value for key, value in LONGER.items() if key in sizes}
    settings = [f"{key}={value}" for key, value in NARROW.items() if preset.policy.kind == "gm" or "logstd" not in key]
    settings += [f"policy.{key}={value}" for key, value in row.policy.items()]
    return sessions.session_of(name, settings, small=True, batch=2, device=device, sizes=sizes)


def waits_of(work: Callable[[], object], device: torch.device) -> dict[str, int]:
    """How often the host waits for the device in ``work``, by place; nothing on a CPU, which is never waited for."""
    if device.type == "cpu":
        work()
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places_ = [
        f"{Path(one.filename).name}:{one.lineno}" for one in caught if "called a synchronizing" in str(one.message)
    ]
    return dict(Counter(places_))


def peak_of(work: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that tensors take at the most demanding moment of ``work``, with all that is held before it."""
    if device.type == "cpu":
        work()
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def kernels_of(work: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Launches in ``work``, and the kernels that take most of the GPU's time, in milliseconds; nothing on a CPU."""
    if device.type == "cpu":
        work()
        return {}
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        work()
        torch.cuda.synchronize(device)
    rows = [event for event in seen.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
    rows.sort(key=lambda event: event.self_device_time_total, reverse=True)
    return {
        "launches": sum(event.count for event in rows),
        "milliseconds": sum(event.self_device_time_total for event in rows) / 1000,
        "longest": [
            [event.key[:90], event.count, round(event.self_device_time_total / 1000, 3)] for event in rows[:14]
        ],
    }


def estimate_of(session: Session) -> dict[str, Any]:
    """What the dry run says of such a network, in bytes by part."""
    with mock.patch.object(dry_run, "outline_folder", lambda *given: Path()):
        outline = dry_run.outline_of(session.preset, session.student.family)
    return dict(dry_run.memory_of(outline, session.batches.device_batch).parts())


def measure(name: str, device: torch.device, narrow: bool) -> dict[str, Any]:
    """Everything about one preset."""
    session = opened(name, str(device), narrow)
    session.iteration = ITERATION
    noise, told = sessions.noise_of(session)
    noise.normal_(generator=torch.Generator(device).manual_seed(0))
    found: list[torch.Tensor] = []

    def step() -> None:
        train_step(session)

    def sampling() -> None:
        with session.accelerator.autocast():
            found.append(sample_student(session.average, noise, told, steps=session.student.facts.nfe))

    first = elapsed(step, device) / 1000
    waits, peak = waits_of(step, device), peak_of(step, device)
    times = sorted(elapsed(step, device) / 1000 for _ in range(ROUNDS))
    sampling()
    sampling_waits = waits_of(sampling, device)
    kernels, sampling_kernels = kernels_of(step, device), kernels_of(sampling, device)
    rows = take_pending(session)
    row = {
        "preset": name,
        "parameters": sum(value.numel() for value in session.student.model.parameters()),
        "batch": session.batches.device_batch,
        "losses": [row["loss"] for row in rows],
        "gradient_norms": [row["gradient_norm"] for row in rows],
        "finite": not any(row["skipped"] for row in rows) and bool(found[-1].isfinite().all()),
        "first_step_seconds": first,
        "step_seconds": times[len(times) // 2],
        "sampling_seconds": elapsed(sampling, device) / 1000,
        "waits": waits,
        "sampling_waits": sampling_waits,
        "peak_bytes": peak,
        "kernels": kernels,
        "sampling_kernels": sampling_kernels,
    }
    try:
        estimate = estimate_of(session)
    except Exception as error:
        return row | {"estimate": f"failed: {type(error).__name__}: {error}"}
    return row | {"estimate_bytes": estimate, "estimate_over_peak": None if peak is None else estimate["peak"] / peak}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="a narrow network: does it run at all")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    row = measure(options.preset, device, options.small)
    print(json.dumps(row), flush=True)
    if options.json is not None:
        write_json(options.json, {"benchmark": "steps", **machine(device), "results": [row]})
    return int(not row["finite"])


if __name__ == "__main__":
    raise SystemExit(main())
