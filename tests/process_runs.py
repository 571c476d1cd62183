"""Command lines of short runs that several processes may share, and what two runs must have in common."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_presets import texts
from zoo import ZOO, zoo_preset

TRAINING = "checkpoints/0000004/training.safetensors"


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trained(folder: Path) -> dict[str, torch.Tensor]:
    """The last checkpoint of a run."""
    return load_file(folder / TRAINING)


def same(one: Path, other: Path, tolerance: float) -> None:
    """Losses and everything that is trained agree."""
    assert losses(one) == pytest.approx(losses(other), rel=max(tolerance, 1e-12))
    left, right = trained(one), trained(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=tolerance, atol=tolerance)


def whole(tiny_teacher: Path, folder: Path) -> list[str]:
    """A fully trained student, from noised pictures."""
    return [
        "--teacher",
        str(tiny_teacher),
        "--iterations",
        "4",
        "--batch-size",
        "8",
        "--set",
        "optimisation.device_batch_size=4",
    ]


def two_networks(tiny_teacher: Path, folder: Path) -> list[str]:
    """Adapters of two networks, of which each backward pass reaches one."""
    return adapters(tiny_teacher, folder, "wan-a14b")


def adapters(tiny_teacher: Path, folder: Path, family: str = "flux") -> list[str]:
    """A student of adapters with dropout, from noise alone over two segments."""
    path, _ = zoo_preset(ZOO[family], folder)
    sources = texts(folder, "cat", "dog", "a sun", "rain")
    checkpointing = ["--set", "optimisation.gradient_checkpointing=true"]
    return [
        "--teacher",
        str(path),
        *sources,
        *checkpointing,
        "--batch-size",
        "2",
        "--set",
        "optimisation.device_batch_size=1",
    ]
