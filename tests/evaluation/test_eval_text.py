"""`piflow eval` of a text-to-image student: prompts, their seeds, CLIP, and prompts that are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from text_students import saved_student
from zoo import ZOO, zoo_preset

from piflow_cli.evaluation.metrics import clip_score
from piflow_cli.students.runs import RunFolder

SMALL = ["--height", "32", "--width", "32", "--batch-size", "2", "--fine-steps", "2"]
PROMPTS = ["a fox", "cat", "an owl", "two hens", "x"]


class Clip:
    """Scores that tell which prompt a picture was read with."""

    name, identity = "clip:lengths", "1"

    def __init__(self, source: str, device: torch.device) -> None:
        # What pi-Flow's CLIP similarities are measured with.
        assert source == "openai/clip-vit-large-patch14-336"

    def long_texts(self, texts):
        return {text: f"{len(text)} letters" for text in texts if len(text) > 7}

    def scores(self, images, texts):
        assert images.shape[1:] == (3, 32, 32) and len(images) == len(texts)
        return torch.tensor([float(len(text)) for text in texts])


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """A run folder: its run.yaml tells of the teacher."""
    folder = tmp_path_factory.mktemp("flux")
    _, preset = zoo_preset(ZOO["flux"], folder)
    saved_student(ZOO["flux"], folder)
    RunFolder(folder).write_settings(preset)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture(autouse=True)
def everything(text_encoders, monkeypatch) -> None:
    monkeypatch.setattr(clip_score, "ClipScore", Clip)


def test_every_prompt_has_noise_of_its_own(evaluate, student, prompts) -> None:
    outcome = evaluate(
        student, "--prompts", prompts, "--metrics", "pr,clip,alignment,trajectory", "--extractor", "pixels", *SMALL
    )
    assert outcome.code == 0, outcome.err
    rows = {row["metric"]: row for row in json.loads(outcome.out)["results"]}
    assert (
        rows["clip"]["value"] == pytest.approx(sum(map(len, PROMPTS)) / 5)
        and rows["clip"]["extractor"] == "clip:lengths"
    )
    assert rows["recall"]["seeds"] == "0-4" and rows["recall"]["reference"] == "teacher, 2 steps, same noise"
    assert rows["mse"]["value"] > 0 and rows["velocity-error"]["value"] > 0


def test_every_prompt_with_every_seed_has_diversity(evaluate, student, prompts) -> None:
    arguments = ["--prompts", prompts, "--seeds", "4,7", "--metrics", "clip,diversity", "--extractor", "pixels", *SMALL]
    outcome = evaluate(student, *arguments)
    assert outcome.code == 0, outcome.err
    rows = {row["metric"]: row for row in json.loads(outcome.out)["results"]}
    assert rows["diversity"]["images"] == 10 and rows["clip"]["images"] == 10 and rows["clip"]["seeds"] == "4,7"


def test_texts_that_are_cut_are_named_as_json(evaluate, student, tmp_path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join([*PROMPTS, "z" * 600]))
    outcome = evaluate(student, "--prompts", tmp_path / "prompts.txt", "--metrics", "clip", *SMALL)
    assert outcome.code == 0, outcome.err
    warnings = [json.loads(line)["warning"] for line in outcome.err.splitlines()]
    assert [
        line
        for line in warnings
        if line.startswith("1 of 6 texts are longer than the text encoder reads")
        and "(600 tokens, of which 512 are read)" in line
    ]
    assert [
        line
        for line in warnings
        if line.startswith("CLIP score: 2 of 6 texts are longer") and "'two hens' (8 letters)" in line
    ]


def test_seeds_and_sizes_of_prompts_count(evaluate, student, tmp_path) -> None:
    (tmp_path / "prompts.csv").write_text("caption,seed,width,height\na fox,7,32,64\ncat,,64,32\nowl,7,32,32\n")
    arguments = ["--prompts", tmp_path / "prompts.csv", "--text-column", "caption", "--save-images"]
    outcome = evaluate(student, *arguments, "--metrics", "alignment", "--batch-size", "2", "--fine-steps", "2")
    assert outcome.code == 0, outcome.err
    sizes = {}
    for path in (tmp_path / "report" / "images").rglob("*.png"):
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
    assert sizes == {"0000-000007.png": (32, 64), "0001-000001.png": (64, 32), "0002-000007.png": (32, 32)}


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("a fox\n\ncat\n", [], "prompts.txt:2: is empty"),
        ("a fox\ncat\n", ["--num-images", "3"], "holds 2 prompts, and 3 are wanted"),
        ("a fox\n", ["--num-images", "2"], "write more prompts into it"),
        ("a fox\ncat\n", ["--text-column", "caption"], "--text-column caption: "),
        ("a fox\ncat\n", ["--full"], "holds 2 prompts, and 10000 are wanted"),
        ("a fox\ncat\n", ["--labels", "1"], "--labels"),
        ("a fox\ncat\n", ["--metrics", "diversity"], "no label or prompt comes twice"),
    ],
)
def test_prompts_that_cannot_be_had_are_named(
    evaluate, student, tmp_path, text: str, arguments: list[str], message: str
) -> None:
    (tmp_path / "prompts.txt").write_text(text)
    outcome = evaluate(student, "--prompts", tmp_path / "prompts.txt", "--extractor", "pixels", *arguments)
    assert outcome.code == 2 and message in outcome.err


def test_a_student_of_texts_wants_texts(evaluate, student) -> None:
    outcome = evaluate(student)
    assert outcome.code == 2 and "--prompts FILE" in outcome.err
