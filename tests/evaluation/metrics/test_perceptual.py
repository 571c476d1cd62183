from __future__ import annotations

import hashlib
import io
import pickle
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers import seeded

from piflow_cli.evaluation.metrics import perceptual
from piflow_cli.evaluation.metrics.perceptual import lpips_weights, open_lpips, why_no_lpips

CPU = torch.device("cpu")


class SquaredDistance(torch.nn.Module):
    """Takes the place of the package's network: it is asked for an AlexNet without weights, whose only layer here is a
    scale, and sees pictures of three channels and 64 pixels.
    """

    def __init__(self, net: str, pnet_rand: bool, verbose: bool) -> None:
        super().__init__()
        assert net == "alex" and pnet_rand and not verbose
        self.net = torch.nn.ModuleDict({"slice1": torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False))})

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        assert one.shape[1] == 3 and min(one.shape[-2:]) >= 64
        return self.net["slice1"][0].weight * (one - other).square().mean(dim=(1, 2, 3), keepdim=True)


@pytest.fixture
def package(tmp_path: Path, monkeypatch) -> None:
    """A stand-in for the package lpips, and an empty cache of torch.hub."""
    module = ModuleType("lpips")
    module.__spec__ = ModuleSpec("lpips", None)
    module.LPIPS = SquaredDistance
    monkeypatch.setitem(sys.modules, "lpips", module)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def put_weights(monkeypatch, stored: object) -> None:
    """Weights in torch.hub's cache, under a name that ends with the first
    digits of their SHA-256 as torchvision's do."""
    content = io.BytesIO()
    torch.save(stored, content)
    monkeypatch.setattr(perceptual, "WEIGHTS", f"alexnet-owt-{hashlib.sha256(content.getvalue()).hexdigest()[:8]}.pth")
    lpips_weights().parent.mkdir(parents=True)
    lpips_weights().write_bytes(content.getvalue())


def test_without_the_package_or_the_weights_there_is_none_and_it_is_said_why(package, monkeypatch) -> None:
    assert why_no_lpips() == f"LPIPS needs torchvision's AlexNet at {lpips_weights()}" and open_lpips(CPU) is None
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    assert "piflow[eval]" in why_no_lpips() and open_lpips(CPU) is None


def test_pictures_are_compared_one_by_one_by_the_weights_in_torch_hub_s_cache(package, monkeypatch) -> None:
    put_weights(monkeypatch, {"features.0.weight": torch.tensor([[2.0]]), "classifier.1.weight": torch.zeros(1)})
    distances = open_lpips(CPU)
    ours, theirs = (torch.rand(40, 3, 64, 70, generator=seeded(seed)) * 2 - 1 for seed in (0, 1))
    torch.testing.assert_close(distances(ours, theirs), 2 * (ours - theirs).square().mean(dim=(1, 2, 3)))
    small = torch.zeros(2, 1, 8, 16)
    torch.testing.assert_close(distances(small, small + 0.5), torch.full((2,), 0.5))


def test_damaged_weights_are_not_used_and_it_is_said(package, monkeypatch) -> None:
    put_weights(monkeypatch, {"features.0.weight": torch.tensor([[2.0]])})
    damaged = bytearray(lpips_weights().read_bytes())
    damaged[-1] ^= 1
    lpips_weights().write_bytes(damaged)
    assert f"{lpips_weights()} is damaged" in why_no_lpips() and open_lpips(CPU) is None


class Planted:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_pickle_in_torch_hub_s_cache_does_not_run(package, monkeypatch, tmp_path: Path) -> None:
    put_weights(monkeypatch, Planted(tmp_path / "ran"))
    with pytest.raises(pickle.UnpicklingError):
        open_lpips(CPU)
    assert not (tmp_path / "ran").exists()
    torch.load(lpips_weights(), weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:.*torchvision.*|.*'pretrained'.*|.*weight enum.*:UserWarning")
def test_lpips_with_these_weights_is_the_package_s_own(monkeypatch, tmp_path: Path) -> None:
    package = pytest.importorskip("lpips")
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    put_weights(monkeypatch, torchvision.models.alexnet(weights=None).state_dict())
    published = lpips_weights().with_name("alexnet-owt-7be5be79.pth")
    published.write_bytes(lpips_weights().read_bytes())
    own = package.LPIPS(net="alex", verbose=False).eval()
    ours, theirs = (torch.rand(2, 3, 64, 64, generator=seeded(seed)) * 2 - 1 for seed in (0, 1))
    with torch.no_grad():
        torch.testing.assert_close(open_lpips(CPU)(ours, theirs), own(ours, theirs).flatten())
