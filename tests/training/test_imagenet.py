"""ImageNet in small, through the whole command line: a released checkpoint, no
pictures, latents, guidance in an interval.

What is trained on pictures is in test_labelled.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import GOLDEN
from interruptions import interrupted_at
from PIL import Image
from run_rows import course_of
from safetensors.torch import load_file
from sit import CLASSES, HEADS, SIZE, sit_weights
from tiny_imagenet import tiny_imagenet

from piflow_cli.data.batches import UniformLabels
from piflow_cli.presets.resolve import load
from piflow_cli.teachers import latents
from piflow_cli.teachers.class_conditional import ClassConditionalFamily
from piflow_cli.training import loop, run

REGIMES = {
    "gm, 1 NFE": [],
    "gm, 2 NFE, accumulation": ["--nfe", "2", "--set", "optimisation.device_batch_size=4"],
    "dx, 1 NFE": ["--policy", "dx"],
    "dx, 2 NFE": ["--policy", "dx", "--nfe", "2"],
}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory, tiny_vae) -> Path:
    return tiny_imagenet(
        tmp_path_factory.mktemp("imagenet"), tiny_vae, data={"labels": "uniform", "images": None}, policy={"nfe": 1},
        optimisation={"learning_rate": 1e-3}, output={"preview_every": 2},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def setting(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ClassConditionalFamily, "beside_steps", 4)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "0000004" / "training.safetensors")


@pytest.mark.parametrize("regime", REGIMES)
def test_convert_distil_interrupt_resume_and_sample(cli, imagenet, tmp_path, monkeypatch, regime):
    # Drawing them takes longer than training here; another test has them drawn.
    monkeypatch.setattr(run, "save_comparison", lambda *arguments: None)
    monkeypatch.setattr(run, "draw_loss", lambda *arguments: None)
    arguments = ["distill", "--teacher", str(imagenet), "--quiet", *REGIMES[regime]]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    outcome = cli(*arguments, "--output", str(whole))
    assert (outcome.code, outcome.err) == (0, "")

    monkeypatch.setattr(run, "train_step", interrupted_at(1))
    assert cli(*arguments, "--output", str(parts)).code == 130
    monkeypatch.setattr(run, "train_step", loop.train_step)
    assert cli(*arguments, "--output", str(parts)).code == 0
    left, right = tensors(whole), tensors(parts)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert course_of(whole) == course_of(parts)

    with Image.open(whole / "previews" / "0000004.png") as grid:
        assert grid.mode == "RGB"
    outcome = cli("sample", str(whole), "--seeds", "0-9", "--output", str(tmp_path / "pictures"), "--json")
    assert outcome.code == 0, outcome.err
    with Image.open(tmp_path / "pictures" / "000003.png") as picture:
        assert (picture.size, picture.mode) == ((2 * SIZE, 2 * SIZE), "RGB")
        assert json.loads(picture.text["piflow"])["label"] == 3


def test_the_teacher_is_sampled_with_another_base_and_vae(cli, imagenet, tiny_vae, tmp_path):
    torch.save(sit_weights(seed=1), tmp_path / "other.pt")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": HEADS}))
    found = {}
    for name, options in {"own": [], "other": ["--base", str(tmp_path / "other.pt"), "--vae", str(tiny_vae)]}.items():
        arguments = [
            "--teacher",
            str(imagenet),
            "--steps",
            "2",
            "--seeds",
            "0",
            "--output",
            str(tmp_path / name),
            "--quiet",
        ]
        assert cli("sample", *arguments, *options).code == 0
        found[name] = (tmp_path / name / "000000.png").read_bytes()
    assert found["own"] != found["other"]


def test_a_student_says_which_vae_shows_it_and_takes_another(cli, imagenet, tmp_path, monkeypatch):
    assert (
        cli(
            "distill", "--teacher", str(imagenet), "--iterations", "1", "--quiet", "--output", str(tmp_path / "run")
        ).code
        == 0
    )
    with Image.open(tmp_path / "run" / "samples.png") as comparison:
        pixels = np.asarray(comparison.convert("RGB")).astype(int)
        assert (pixels[..., 0] != pixels[..., 2]).any(), "latents are shown in colour"
    named = []
    opened = latents.latent_decoder
    monkeypatch.setattr(
        "piflow_cli.sampling.sample.latent_decoder",
        lambda vae, *rest: named.append(vae) or opened(load(imagenet).teacher.vae, *rest),
    )
    sampled = ["sample", str(tmp_path / "run"), "--seeds", "0", "--output", str(tmp_path / "out"), "--overwrite"]
    for options in ([], ["--vae", "elsewhere/vae"]):
        assert cli(*sampled, "--quiet", *options).code == 0
    assert named == [load(imagenet).teacher.vae, "elsewhere/vae"]
    outcome = cli("sample", str(tmp_path / "run"), "--base", str(tmp_path), "--output", str(tmp_path / "none"))
    assert outcome.code == 2 and "brings all of its own" in outcome.err


def test_the_plan_needs_the_configuration_alone(cli, much_memory, tmp_path):
    """Nothing is downloaded: the shipped presets bring the architecture of their checkpoints."""
    for name, data, states in (
        ("imagenet-fm", [], "data-free"), ("imagenet-repa", [], "data-free"),
        ("imagenet-repa-2nfe", ["--data", str(tmp_path)], "from noised data"),
        ("imagenet-repa-2nfe", ["--set", "data.labels=uniform"], "data-free"),
    ):  # fmt: skip
        plan = json.loads(cli("distill", "--teacher", name, *data, "--dry-run", "--json").out)
        assert "674.82 M" in plan["teacher"]["weights"]
        assert plan["optimisation"]["batch"].startswith("4096 = 1 x 512 x 8")
        assert states in plan["imitation"]["states"]


@pytest.mark.parametrize("dry", [[], ["--dry-run"], ["--dry-run", "--json"]])
@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ([], "imagenet-repa-2nfe is trained on labelled pictures, and none are given", "--data DIR"),
        (["--data", "nowhere"], "there are no pictures at nowhere", "--data SOURCE"),
        (["--data", "{file}"], "is neither a .safetensors file nor a .tar shard", "--data SOURCE"),
    ],
)
def test_pictures_that_are_missing_are_said_before_any_download(
    cli, tmp_path, monkeypatch, dry, options, message, hint
):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *given, **options: pytest.fail("downloads"))
    (tmp_path / "file.txt").write_text("")
    options = [option.format(file=tmp_path / "file.txt") for option in options]
    outcome = cli("distill", "--teacher", "imagenet-repa-2nfe", *options, *dry, "--output", str(tmp_path / "out"))
    assert (outcome.code, outcome.out) == (2, "") and message in outcome.err and hint in outcome.err
    assert len(outcome.err.splitlines()) == (1 if "--json" in dry else 2) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "teacher.vae=null"], "the model makes latents of 4 channels, and no VAE"),
        (["--set", "teacher.vae=nowhere"], "there is nothing at nowhere"),
        (["--base", "nowhere.pth"], "there is nothing at nowhere.pth"),
        (["--set", "data.labels=odd"], "data.labels"),
        (["--no-data-free"], "is false, and labels bring no pictures"),
    ],
)
def test_what_cannot_be_trained_says_so(cli, imagenet, tmp_path, options, message):
    outcome = cli("distill", "--teacher", str(imagenet), *options, "--output", str(tmp_path / "out"))
    assert outcome.code == 2 and message in outcome.err and "→" in outcome.err
    assert not (tmp_path / "out").exists()


def test_labels_come_equally_often_in_an_order_of_the_seed_alone():
    data = UniformLabels(CLASSES, (4, SIZE, SIZE), lambda labels: {"labels": torch.tensor(labels)})

    def labels(seed: int, place: int, size: int) -> torch.Tensor:
        batch = data.batch(seed, place, size)
        assert batch.shape == (size, 4, SIZE, SIZE) and batch.x_0 is None
        return batch.conditioning["labels"]

    twenty = labels(3, 0, 4 * CLASSES)
    assert twenty.bincount().tolist() == [4] * CLASSES
    assert torch.equal(torch.cat([labels(3, place, 4) for place in range(5)]), twenty)
    assert not torch.equal(labels(4, 0, 20), twenty)


def test_a_teacher_that_is_told_a_text_has_no_labels(cli, tmp_path):
    options = ["--set", "data.labels=uniform", "--set", "optimisation.precision=fp32"]
    outcome = cli(
        "distill",
        "--teacher",
        "flux-dev",
        *options,
        "--base",
        str(GOLDEN / "flux-tiny"),
        "--output",
        str(tmp_path / "out"),
    )
    assert (
        outcome.code == 2
        and "data.labels=uniform: is for teachers that are told a class, and this one is told a text" in outcome.err
    )
