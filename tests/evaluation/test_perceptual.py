from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers import seeded

from piflow_cli.evaluation import perceptual
from piflow_cli.evaluation.perceptual import lpips_weights, open_lpips, why_no_lpips

CPU = torch.device("cpu")


class SquaredDistance(torch.nn.Module):
    """Takes the place of the package's network: it is asked for AlexNet, and sees pictures of three channels and 64 pixels."""

    def __init__(self, net: str, verbose: bool) -> None:
        super().__init__()
        assert net == "alex" and not verbose

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        assert one.shape[1] == 3 and min(one.shape[-2:]) >= 64
        return (one - other).square().mean(dim=(1, 2, 3), keepdim=True)


@pytest.fixture
def package(tmp_path: Path, monkeypatch) -> None:
    """A stand-in for the package lpips, and an empty cache of torch.hub."""
    module = ModuleType("lpips")
    module.__spec__ = ModuleSpec("lpips", None)
    module.LPIPS = SquaredDistance
    monkeypatch.setitem(sys.modules, "lpips", module)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def test_without_the_package_or_the_weights_there_is_none_and_it_is_said_why(package, monkeypatch) -> None:
    assert why_no_lpips() == f"LPIPS needs torchvision's AlexNet at {lpips_weights()}" and open_lpips(CPU) is None
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    assert "piflow[eval]" in why_no_lpips() and open_lpips(CPU) is None


def test_pictures_are_compared_one_by_one(package) -> None:
    lpips_weights().parent.mkdir(parents=True)
    lpips_weights().write_bytes(b"weights")
    distances = open_lpips(CPU)
    ours, theirs = (torch.rand(40, 3, 64, 70, generator=seeded(seed)) * 2 - 1 for seed in (0, 1))
    torch.testing.assert_close(distances(ours, theirs), (ours - theirs).square().mean(dim=(1, 2, 3)))
    small = torch.zeros(2, 1, 8, 16)
    torch.testing.assert_close(distances(small, small + 0.5), torch.full((2,), 0.25))
