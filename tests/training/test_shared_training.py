"""`piflow distill` of tiny text-to-image teachers: one base, adapters and a
head, from prompts or pictures to a student."""

import json
from pathlib import Path

import pytest
import torch
from interruptions import interrupted_at
from PIL import Image
from run_rows import course_of
from safetensors.torch import load_file
from tiny_vae import tiny_vae
from zoo import PICTURES, RAW, ZOO, Row, conditioning, every_family, states, zoo_preset

from piflow_cli.console import Console
from piflow_cli.presets.resolve import resolve
from piflow_cli.students.open import open_student
from piflow_cli.teachers import family_of
from piflow_cli.training import loop, run
from piflow_cli.training.loop import train_step

SIZE = ["--set", "data.sizes=[[96, 64]]"]


@pytest.fixture
def sources(tmp_path) -> dict[str, list[str]]:
    """Options that name prompts, and pictures with captions."""
    texts = ["cat", "dog", "a sun", "rain"]
    (tmp_path / "prompts.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "pictures").mkdir()
    for number, text in enumerate(texts):
        Image.effect_noise((96, 64), 40 + number).convert("RGB").save(tmp_path / "pictures" / f"{number}.png")
        (tmp_path / "pictures" / f"{number}.txt").write_text(text)
    cache = ["--set", f"data.cache={tmp_path / 'cache'}", *SIZE]
    return {
        "prompts": ["--prompts", str(tmp_path / "prompts.txt"), *cache],
        "pictures": ["--data", str(tmp_path / "pictures"), *cache],
    }


def tiny(row: Row, folder: Path) -> Path:
    path, _ = zoo_preset(row, folder)
    tiny_vae(row.family).save_pretrained(folder / "base" / "vae")
    return path


def same_tensors(one: Path, other: Path) -> bool:
    left, right = load_file(one), load_file(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


REGIMES = [
    *((name, "gm", "prompts") for name in ZOO),
    *((name, "dx", "pictures") for name in PICTURES),
    ("flux", "gm", "pictures"),
    ("flux", "dx", "prompts"),
]


@pytest.mark.parametrize(("name", "policy", "source"), REGIMES)
def test_a_run_can_be_stopped_and_resumed_bit_for_bit(
    cli, text_encoders, sources, name, policy, source, tmp_path, monkeypatch
) -> None:
    # What is drawn at the end of a run has tests of its own, and so has the plan, which takes as long as the run.
    monkeypatch.setattr(run, "describe", lambda *given: {"verdict": "fits"})
    for drawing in ("save_comparison", "draw_loss"):
        monkeypatch.setattr(run, drawing, lambda *given: None)
    preset = tiny(ZOO[name], tmp_path)
    checkpointing = "true" if policy == "gm" else "false"
    arguments = [
        "distill",
        "--teacher",
        str(preset),
        "--policy",
        policy,
        "--set",
        f"optimisation.gradient_checkpointing={checkpointing}",
    ]
    arguments += [*sources[source], "--quiet"]
    whole = cli(*arguments, "--output", str(tmp_path / "whole"))
    assert (whole.code, whole.err) == (0, "")
    monkeypatch.setattr(run, "train_step", interrupted_at(1))
    assert cli(*arguments, "--output", str(tmp_path / "parts")).code == 130
    monkeypatch.setattr(run, "train_step", loop.train_step)
    assert cli(*arguments, "--output", str(tmp_path / "parts")).code == 0
    for file in ("adapter/diffusion_pytorch_model.safetensors", "checkpoints/0000004/training.safetensors"):
        assert same_tensors(tmp_path / "whole" / file, tmp_path / "parts" / file)
    assert course_of(tmp_path / "whole") == course_of(tmp_path / "parts")


@every_family
def test_a_run_leaves_pictures_a_plan_and_a_student_that_loads(cli, text_encoders, sources, row, tmp_path) -> None:
    preset, folder = tiny(row, tmp_path), tmp_path / "out"
    arguments = [
        "distill",
        "--teacher",
        str(preset),
        *sources["prompts"],
        "--set",
        "output.preview_every=2",
        "--output",
        str(folder),
    ]
    plan = json.loads(cli(*arguments, "--dry-run", "--json").out)
    assert "adapters of rank 4" in plan["student"]["trained"] and not folder.exists()
    assert (
        plan["optimisation"]["batch"]
        == "2 = 1 x 2 x 1 (processes x device batch x accumulation), trajectories of 2 segments"
    )
    outcome = cli(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    for name in ("previews/0000002.png", "previews/0000004.png"):
        with Image.open(folder / name) as picture:
            # Four of 96 x 64, or five frames of each of two videos, in cells of three times the longer side.
            columns, rows = (5, 2) if row.makes_videos else (4, 1)
            assert picture.mode == "RGB" and picture.width > columns * 288
            assert rows * 288 < picture.height < (rows + 1) * 288
    assert (folder / "samples.png").is_file()
    student = open_student(folder / "adapter")
    assert (student.facts.iterations, student.facts.base_dtype) == (4, "float32")
    counted = sum(value.numel() for value in student.model.parameters())
    assert plan["student"]["trained"].startswith(f"{counted / 1e6:.2f} M")


def test_without_a_vae_a_run_goes_without_pictures(cli, text_encoders, sources, tmp_path) -> None:
    path, _ = zoo_preset(ZOO["flux"], tmp_path)
    outcome = cli(
        "distill",
        "--teacher",
        str(path),
        *sources["prompts"],
        "--set",
        "output.preview_every=1",
        "--output",
        str(tmp_path / "out"),
    )
    assert outcome.code == 0 and f"no pictures of this run: {tmp_path / 'base'} has no VAE" in outcome.err
    assert not (tmp_path / "out" / "previews").exists() and not (tmp_path / "out" / "samples.png").exists()


def session_of(row: Row, sources, tmp_path, *assignments: str) -> loop.Session:
    given = [*assignments, *(text for text in sources["prompts"] if "=" in text)]
    preset = resolve(tiny(row, tmp_path), None, given, {"data.prompts": sources["prompts"][1]})
    return run.open_session(preset, tmp_path / "out", "cpu", Console(quiet=True))


@every_family
def test_all_that_a_student_adds_learns_and_nothing_else(text_encoders, sources, row, tmp_path) -> None:
    session = session_of(row, sources, tmp_path)
    base = session.student.model.base
    before = {name: value.detach().clone() for name, value in base.named_parameters()}
    with torch.no_grad():
        expected = family_of(row.family, row.guidance).call(row.build(), states(row), RAW, conditioning(row))
    optimised = {id(value) for group in session.optimizer.param_groups for value in group["params"]}
    assert optimised == {id(value) for value in session.student.model.parameters()}
    assert not optimised & {id(value) for value in session.average.model.parameters()}
    for _ in range(3):
        train_step(session)
    student = {id(value) for value in session.student.model.parameters()}
    average = {id(value) for value in session.average.model.parameters()}
    for name, value in base.named_parameters():
        assert torch.equal(value, before[name]) != (id(value) in student | average), name
    with torch.no_grad():
        assert torch.equal(session.student.family.call(session.teacher, states(row), RAW, conditioning(row)), expected)


def test_a_checkpoint_holds_what_is_trained_its_average_and_the_optimiser(
    cli, text_encoders, sources, tmp_path
) -> None:
    preset, folder = tiny(ZOO["qwen-image"], tmp_path), tmp_path / "out"
    assert cli("distill", "--teacher", str(preset), *sources["prompts"], "--quiet", "--output", str(folder)).code == 0
    tensors = load_file(folder / "checkpoints" / "0000004" / "training.safetensors")
    names = {name for name, _ in open_student(folder / "adapter").model.named_parameters()}
    parts = {
        part: {name.removeprefix(f"{part}.") for name in tensors if name.startswith(f"{part}.")}
        for part in ("student", "average", "optimizer")
    }
    assert parts["student"] == parts["average"] == names
    assert len(parts["optimizer"]) == 3 * len(names)
    assert sum(map(len, parts.values())) == len(tensors)


def test_a_base_in_bf16_is_trained_under_autocast(other_precision, text_encoders, sources, tmp_path) -> None:
    session = session_of(ZOO["flux"], sources, tmp_path, "adapter.base_precision=bf16", "optimisation.precision=bf16")
    assert session.student.model.base.x_embedder.weight.dtype == torch.bfloat16
    for _ in range(2):
        train_step(session)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in session.average.model.parameters())
