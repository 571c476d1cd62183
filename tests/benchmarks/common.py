"""What the benchmarks share: timing, the description of the machine, random policies and the JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from piflow_cli.core.policies.dx import DXPolicy
from piflow_cli.core.policies.gmflow import GMFlowPolicy


def machine(device: torch.device) -> dict:
    """Device, threads, versions and date: without them a number means nothing."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "triton", "diffusers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    if device.type == "cuda":
        name, threads = torch.cuda.get_device_name(device), None
    else:
        name, threads = f"{platform.machine()} CPU", torch.get_num_threads()
    return {"device": name, "threads": threads, "versions": versions, "date": date.today().isoformat()}


def elapsed(call: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call, to the end of what it started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - start)


def medians(
    calls: dict[str, Callable[[], object]], device: torch.device, rounds: int, budget: float = 40.0
) -> dict[str, float]:
    """Median milliseconds of each call, taken in turn so that a slow moment of the machine meets all of them.

    After a warm-up, ``rounds`` turns, or fewer (at least one) where they would take more than ``budget`` seconds.
    """
    warm = sum(elapsed(call, device) for call in calls.values()) / 1000
    rounds = max(1, min(rounds, int(budget / max(warm, 1e-9))))
    times = [{name: elapsed(call, device) for name, call in calls.items()} for _ in range(rounds)]
    return {name: statistics.median(turn[name] for turn in times) for name in calls}


def random_mixture(shape: tuple[int, ...], components: int, shift: float, device: torch.device) -> GMFlowPolicy:
    """A float32 mixture whose components are alike, as those of a student are, at pure noise."""
    generator = torch.Generator().manual_seed(0)
    batch, channels, *space = shape
    common = torch.randn(batch, 1, channels, *space, generator=generator)
    means = common + 0.3 * torch.randn(batch, components, channels, *space, generator=generator)
    return GMFlowPolicy(
        means=means.to(device),
        logweights=torch.randn(batch, components, 1, *space, generator=generator).to(device),
        logstds=torch.full((batch,), -2.0, device=device),
        x_src=torch.randn(shape, generator=generator).to(device),
        raw_src=torch.ones(batch, dtype=torch.float64, device=device),
        shift=shift,
    )


def random_grid(shape: tuple[int, ...], points: int, shift: float, segment: float, device: torch.device) -> DXPolicy:
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(shape[0], points, *shape[1:], generator=generator).to(device)
    x_src = torch.randn(shape, generator=generator).to(device)
    return DXPolicy(grid, x_src, torch.ones(shape[0], dtype=torch.float64, device=device), segment, shift)


def write_json(path: Path, content: dict) -> None:
    """Write a result aside and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(aside, path)
