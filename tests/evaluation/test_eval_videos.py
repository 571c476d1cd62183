"""`piflow eval` of a text-to-video student: frames, change, and what videos cannot have."""

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

ROW, FRAMES = ZOO["wan"], 9
SMALL = ["--height", "32", "--width", "32", "--fine-steps", "2", "--extractor", "pixels"]
PROMPTS = ["a fox", "cat", "an owl", "x"]


class Clip:
    """Scores that tell which prompt a frame was read with, and how many frames there are."""

    name, identity = "clip:lengths", "1"

    def __init__(self, source: str, device: torch.device) -> None:
        pass

    def long_texts(self, texts):
        return {}

    def scores(self, images, texts):
        assert images.shape == (FRAMES, 3, 32, 32) and len(texts) == FRAMES
        return torch.tensor([float(len(text)) for text in texts]) + torch.arange(FRAMES)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    _, preset = zoo_preset(ROW, folder)
    saved_student(ROW, folder)
    RunFolder(folder).write_settings(preset)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return tmp_path / "prompts.txt"


@pytest.fixture(autouse=True)
def everything(text_encoders, monkeypatch) -> None:
    monkeypatch.setattr(clip_score, "ClipScore", Clip)


def numbers(outcome) -> dict[tuple[str, str], dict]:
    assert outcome.code == 0, outcome.err
    return {(row["kind"], row["metric"]): row for row in json.loads(outcome.out)["results"]}


def test_videos_are_measured_by_frames_and_by_their_change(evaluate, unrendered, student, prompts, tmp_path) -> None:
    limit = ["--fail-above", "temporal-error=1e9"]
    outcome = evaluate(student, "--prompts", prompts, *SMALL, "--teacher-steps", "1", "--save-images", *limit)
    found = numbers(outcome)
    # What is measured where nothing is named; a student's one step is not the teacher's two.
    assert found["student", "temporal-error"]["value"] > 0 and found["student", "frame-error"]["value"] > 0
    assert found["teacher", "temporal-error"]["reference"] == "the teacher's 2 steps"
    assert found["student", "fid"]["extractor"] == "pixels over frames" and found["student", "fid"]["images"] == 4
    assert {"mse", "psnr", "recall", "velocity-error", "images-per-second"} <= {metric for _, metric in found}
    assert any(f"an image is a video of {FRAMES} frames" in note for note in json.loads(outcome.out)["notes"])
    assert "temporal" in json.loads(outcome.out)["metrics"].split(",")
    # Two videos of five frames stand in a row, and each is in a file.
    with Image.open(tmp_path / "report" / "samples.png") as grid:
        assert grid.width > 10 * 64 > grid.height
    files = sorted((tmp_path / "report" / "images").rglob("*.gif"))
    assert len(files) == 3 * len(PROMPTS)
    with Image.open(files[0]) as video:
        assert (video.size, video.n_frames, json.loads(video.info["comment"])["frames"]) == ((32, 32), FRAMES, FRAMES)
    # Another report in this folder takes them away.
    numbers(evaluate(student, "--prompts", prompts, *SMALL, "--metrics", "fid"))
    assert not (tmp_path / "report" / "images").exists()


def test_clip_is_a_mean_over_frames(evaluate, student, prompts) -> None:
    found = numbers(evaluate(student, "--prompts", prompts, "--metrics", "clip", *SMALL[:-4]))
    mean = sum(map(len, PROMPTS)) / len(PROMPTS)
    assert found["student", "clip"]["value"] == pytest.approx(mean + (FRAMES - 1) / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "pr", "--num-images", "3", *SMALL], "--metrics pr: it takes 4 pictures, and there are 3"),
        (["--metrics", "fid", "--fail-above", "temporal-error=1", *SMALL], "temporal-error=1: that is not measured"),
        (["--metrics", "is", *SMALL], "--metrics is: pixels over frames has no classes"),
        (["--metrics", "patch-fid", *SMALL], "patch FID takes the middle 299 x 299 pixels, and a picture has 32 x 32"),
        (["--metrics", "temporal", "--frames", "1", *SMALL[:-2]], "videos of one frame do not change"),
        (["--metrics", "fid", "--frames", "8", *SMALL], "this model makes videos of 4 n + 1 frames"),
        (["--metrics", "fid", "--reference", "data", *SMALL], "--reference data: {} makes videos"),
        (["--metrics", "fid", "--reference", "{}", *SMALL], "compare it with its teacher: --reference teacher"),
    ],
)  # fmt: skip
def test_what_videos_cannot_have_is_said_before_anything_is_made(
    evaluate, student, prompts, tmp_path, arguments: list[str], message: str
) -> None:
    named = [text.replace("{}", str(student)) for text in arguments]
    outcome = evaluate(student, "--prompts", prompts, *named)
    assert outcome.code == 2 and message.replace("{}", str(student)) in outcome.err
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_pictures_have_no_temporal_error(evaluate, tmp_path, prompts) -> None:
    zoo_preset(ZOO["flux"], tmp_path)
    adapter = saved_student(ZOO["flux"], tmp_path)
    outcome = evaluate(adapter, "--prompts", prompts, "--metrics", "temporal-error", *SMALL[:-2])
    assert outcome.code == 2 and f"--metrics temporal is of videos, and {adapter} makes pictures" in outcome.err
    outcome = evaluate(adapter, "--prompts", prompts, "--fail-above", "temporal-error=1", *SMALL[:-2])
    told = f"--fail-above temporal-error=1 is of videos, and {adapter} makes pictures"
    assert outcome.code == 2 and told in outcome.err and not list((tmp_path / "cache").rglob("*.safetensors"))
