"""`piflow distill` on prompts and on captioned pictures, from end to end on a tiny text-to-image family."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch
import yaml
from fake_encoders import LONGEST, FakeEncoders, TextDiTFamily, factory_of, sealed_factory
from PIL import Image
from run_rows import course_of
from safetensors.torch import load_file

from piflow_cli.core import imitation
from piflow_cli.presets.families import ROWS, TEXT, FamilyKind
from piflow_cli.training import loop, run

SOURCES = {"prompts": ["--prompts"], "data": ["--data"], "data, data-free": ["--data-free", "--data"]}


@pytest.fixture
def teacher(tiny_teacher, tmp_path, monkeypatch) -> Path:
    """The tiny teacher, told its class by the length of a prompt."""
    preset = yaml.safe_load(tiny_teacher.read_text())
    preset["teacher"] |= {"family": TextDiTFamily.name, "guidance": 2.0}
    preset["data"] = {"resolution": 8, "cache": str(tmp_path / "cache")}
    del preset["imitation"]["data_free"]
    path = tmp_path / "text.yaml"
    path.write_text(yaml.safe_dump(preset))
    row = FamilyKind(TextDiTFamily.name, "fake_encoders:TextDiTFamily", TEXT)
    monkeypatch.setitem(ROWS, row.name, row)
    monkeypatch.setattr(TextDiTFamily, "factory", factory_of(FakeEncoders()), raising=False)
    # Pictures of a run are drawn for class labels; another test is about them.
    for name in ("save_preview", "save_comparison", "draw_loss"):
        monkeypatch.setattr(run, name, lambda *arguments: None)
    return path


@pytest.fixture
def source(tmp_path) -> dict[str, str]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        Image.frombytes("RGB", (8, 9), random.Random(number).randbytes(8 * 9 * 3)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a" * (number + 1))
    (tmp_path / "p.txt").write_text("a\nab\nabc\n")
    return {"--prompts": str(tmp_path / "p.txt"), "--data": str(folder)}


def arguments(teacher: Path, source: dict[str, str], kind: str) -> list[str]:
    return ["distill", "--teacher", str(teacher), *SOURCES[kind], source[SOURCES[kind][-1]]]


@pytest.mark.parametrize("kind", SOURCES)
def test_a_run_goes_on_bit_for_bit_without_its_encoders(cli, teacher, source, tmp_path, monkeypatch, kind):
    command = arguments(teacher, source, kind)
    whole = cli(*command, "--quiet", "--output", str(tmp_path / "whole"))
    assert (whole.code, whole.err) == (0, "")
    monkeypatch.setattr(TextDiTFamily, "factory", sealed_factory())
    step = loop.train_step

    def step_then_interrupt(session) -> None:
        step(session)
        if session.iteration == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(run, "train_step", step_then_interrupt)
        assert cli(*command, "--output", str(tmp_path / "parts")).code == 130
    assert cli(*command, "--output", str(tmp_path / "parts")).code == 0
    left, right = (
        load_file(tmp_path / name / "checkpoints" / "0000006" / "training.safetensors") for name in ("whole", "parts")
    )
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert course_of(tmp_path / "whole") == course_of(tmp_path / "parts")


@pytest.mark.parametrize("change", ["prompts", "a picture", "a caption", "order"])
def test_a_run_does_not_go_on_with_other_data(cli, teacher, source, tmp_path, change):
    kind = "prompts" if change in ("prompts", "order") else "data"
    command = [*arguments(teacher, source, kind), "--quiet", "--output", str(tmp_path / "out")]
    assert cli(*command, "--iterations", "1").code == 0
    folder = Path(source["--data"])
    if kind == "prompts":
        Path(source["--prompts"]).write_text("a\nab\nabcd\n" if change == "prompts" else "ab\na\nabc\n")
    elif change == "a caption":
        (folder / "0.txt").write_text("another")
    else:
        Image.new("RGB", (8, 9)).save(folder / "0.png")
    outcome = cli(*command, "--iterations", "2")
    assert outcome.code == 2 and "the data are no longer those that the run" in outcome.err
    assert cli(*command, "--iterations", "1", "--no-resume").code == 0


@pytest.mark.parametrize(
    ("kind", "expected"), [("prompts", "free"), ("data", "from data"), ("data, data-free", "free")]
)
def test_prompts_train_from_noise_and_pictures_from_data(cli, teacher, source, tmp_path, monkeypatch, kind, expected):
    starts = []
    monkeypatch.setattr(loop, "data_free_losses", lambda *a: starts.append("free") or imitation.data_free_losses(*a))
    monkeypatch.setattr(
        loop, "data_dependent_loss", lambda *a: starts.append("from data") or imitation.data_dependent_loss(*a)
    )
    assert (
        cli(*arguments(teacher, source, kind), "--iterations", "2", "--output", str(tmp_path / "out"), "--quiet").code
        == 0
    )
    assert starts == [expected] * 2


def test_the_losses_are_those_of_latents_and_conditioning_by_hand(cli, teacher, source, tmp_path, monkeypatch):
    """x_0 is the picture's latents, and the teacher hears both the prompt and the empty one."""
    seen = []
    monkeypatch.setattr(
        loop,
        "teacher_velocity",
        lambda family, model, guidance, x, sigma, conditioning, *rest: seen.append(conditioning) or x,
    )
    losses = []
    monkeypatch.setattr(
        loop,
        "data_dependent_loss",
        lambda s, t, x_0, *rest: losses.append(x_0) or imitation.data_dependent_loss(s, t, x_0, *rest),
    )
    assert (
        cli(*arguments(teacher, source, "data"), "--iterations", "1", "--output", str(tmp_path / "out"), "--quiet").code
        == 0
    )
    (x_0,) = losses
    stored = {key: value for path in (tmp_path / "cache").glob("*/latents/*") for key, value in load_file(path).items()}
    # These encoders are sure of their latents, so that a draw is the mean.
    latents = {key: value for key, value in stored.items() if key.endswith(".mean")}
    assert x_0.shape == (8, 1, 4, 4) and len(latents) == 5
    assert all(any(torch.equal(row, value) for value in latents.values()) for row in x_0)
    assert seen[0]["mask"].sum(dim=1).min() >= 1 and seen[0]["negative_mask"].shape == (8, 0)


def test_counts_are_said_and_the_plan_knows_the_data(cli, teacher, source, tmp_path):
    command = [*arguments(teacher, source, "prompts"), "--output", str(tmp_path / "out"), "--iterations", "1"]
    plan = json.loads(cli(*command, "--dry-run", "--json").out)["data"]
    assert plan["source"] == f"3 prompts of {source['--prompts']}" and plan["sizes"] == "8x8"
    assert plan["cache"].endswith(", 0 of 4 texts encoded") and not (tmp_path / "cache").exists()
    said = cli(*command).err
    assert "text embeddings: 0 found in " in said and ", 4 to encode" in said
    plan = json.loads(cli(*command, "--dry-run", "--json").out)["data"]
    assert plan["cache"].endswith(", 4 of 4 texts encoded")
    plan = json.loads(cli(*arguments(teacher, source, "data"), "--dry-run", "--json").out)["data"]
    assert plan["source"] == f"5 captioned pictures of {source['--data']}"
    # The captions "a" and, with every set, "" are among the prompts of before.
    assert plan["cache"].endswith(", 2 of 6 texts encoded")


def test_texts_that_are_cut_are_named_as_json(cli, teacher, tmp_path):
    (tmp_path / "long.txt").write_text("\n".join(["a cat", "z" * (LONGEST + 1)]))
    outcome = cli(
        "distill",
        "--teacher",
        str(teacher),
        "--prompts",
        str(tmp_path / "long.txt"),
        "--output",
        str(tmp_path / "run"),
        "--json",
    )
    assert outcome.code == 0, outcome.err
    warnings = [json.loads(line)["warning"] for line in outcome.err.splitlines()]
    assert [
        line
        for line in warnings
        if line.startswith("1 of 2 texts are longer than the text encoder reads") and "(101 letters)" in line
    ]


def test_the_plan_without_data_or_with_data_of_the_hub(cli, teacher):
    plan = json.loads(cli("distill", "--teacher", str(teacher), "--dry-run", "--json").out)["data"]
    assert plan == {"source": "none yet: --prompts FILE or --data FOLDER"}
    options = ["--prompts", "owner/name", "--set", "data.aspect_ratio=9", "--set", "data.resolution=64"]
    plan = json.loads(cli("distill", "--teacher", str(teacher), *options, "--dry-run", "--json").out)["data"]
    assert plan["source"] == "prompts of owner/name, not looked at before the run"
    assert plan["sizes"] == "168x24, 144x28, ..., 24x168 (21 buckets)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to train on is given"),
        (["--prompts", "nowhere.txt"], "there are no prompts at nowhere.txt"),
        (["--prompts", "{empty}"], "e.txt:2: is empty"),
        (["--data", "nowhere"], "there are no pictures at nowhere"),
        (["--data", "{folder}"], "holds no pictures"),
        (["--prompts", "{good}", "--set", "data.resolution=10"], "data.resolution 10 is no multiple of 4 pixels"),
        (["--prompts", "{good}", "--no-data-free"], "prompts bring no pictures to add noise to"),
        (["--prompts", "{good}", "--data", "{folder}"], "excludes"),
        (
            ["--set", "data.images=nowhere.safetensors"],
            "is for teachers that are told a class, and this one is told a text",
        ),
    ],
)
def test_data_that_cannot_be_trained_on_say_so_before_anything_is_written(
    cli, teacher, source, tmp_path, options, message
):
    (tmp_path / "e.txt").write_text("a\n\nb\n")
    (tmp_path / "empty").mkdir()
    places = {"empty": tmp_path / "e.txt", "folder": tmp_path / "empty", "good": source["--prompts"]}
    outcome = cli(
        "distill",
        "--teacher",
        str(teacher),
        *(option.format(**places) for option in options),
        "--output",
        str(tmp_path / "out"),
    )
    assert outcome.code == 2 and message in outcome.err and "→" in outcome.err
    assert not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()


def test_a_family_of_classes_takes_no_prompts(cli, tiny_teacher, source):
    outcome = cli(
        "distill",
        "--teacher",
        str(tiny_teacher),
        "--prompts",
        source["--prompts"],
        "--data-free",
        "--set",
        "data.resolution=8",
    )
    assert (
        outcome.code == 2
        and f"--prompts {source['--prompts']}: is for teachers that are told a text, and this one is told a class"
        in outcome.err
    )
