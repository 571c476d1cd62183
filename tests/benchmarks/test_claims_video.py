"""The study of moving digits: its figures, frame by frame, and a small one from end to end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import claims_video
import pytest
import torch
from claim_runs import piflow
from claims_video import against_fine
from idea_variants import VARIANTS
from variants import pieces
from zoo import ZOO, facts_of

from piflow_cli.embedded.digits_teacher import load_digits
from piflow_cli.embedded.moving_digits import draw, velocities_of_captions
from piflow_cli.presets.resolve import resolve
from piflow_cli.students.student import student_of
from piflow_cli.teachers import family_of
from piflow_cli.training.settings import network_evaluations

ROW = ZOO["wan"]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    pieces.undo()


def test_figures_of_the_fine_solution_and_of_a_still() -> None:
    videos, places = draw(*load_digits(), 64, torch.Generator().manual_seed(0))
    wanted = velocities_of_captions()[places]
    same = against_fine(videos, videos, wanted)
    assert same["temporal_error"] == same["frame_error"] == same["motion_off"] == 0
    assert same["frechet"] == pytest.approx(0, abs=1e-6)
    # A video that stays as it begins has lost all change, and none of its captions' directions is to stay.
    still = against_fine(videos[:, :, :1].expand_as(videos), videos, wanted)
    assert still["temporal_error"] == pytest.approx(1) and still["motion_off"] == 1 and still["frechet"] > 1


@torch.no_grad()
def test_frame_by_frame_a_student_knows_nothing_of_other_frames_and_its_teacher_does() -> None:
    VARIANTS[claims_video.APART]()
    teacher, family = ROW.build(), family_of(ROW.family)
    student = student_of(teacher, family, facts_of(ROW), seed=0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *ROW.latents, generator=generator)
    other = x.clone()
    other[:, :, 1] = torch.randn(x[:, :, 1].shape, generator=generator)
    sigma = torch.tensor([0.4, 0.9])
    told = {"prompt_embeds": torch.randn(2, 5, ROW.config["text_dim"], generator=generator)}
    for model, knows in ((teacher, True), (student.model, False)):
        before, after = (family.call(model, state, sigma, told) for state in (x, other))
        assert before.shape[2:] == x.shape[2:]
        changed = (before - after).abs().amax(dim=(0, 1, 3, 4)) > 1e-5
        assert changed.tolist() == [knows, True, knows]
    # A video of one frame is one picture either way.
    alone = family.call(student.model, x[:, :, 1:2], sigma, told)
    pieces.undo()
    torch.testing.assert_close(family.call(student.model, x[:, :, 1:2], sigma, told), alone)


def test_students_are_trained_in_full_without_videos_at_one_cost() -> None:
    presets = [
        resolve(claims_video.PRESET, None, [], {"policy.kind": kind, "data.prompts": "prompts.txt"})
        for kind in ("gm", "dx")
    ]
    assert all(one.data_free and one.adapter is None and one.policy.nfe == 2 for one in presets)
    assert len({network_evaluations(one) for one in presets}) == 1


@pytest.mark.long
def test_a_small_study_of_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_video, "FINE", 4)
    whole = claims_video.VIDEOS
    arms = {name: whole.arms[name] for name in ("gm", "gm, frame by frame", "teacher, 2 steps")}
    asked = tuple(one for one in whole.comparisons if {one.better, one.worse} <= arms.keys())
    monkeypatch.setattr(claims_video, "CLAIMS", (replace(whole, arms=arms, comparisons=asked),))
    file = tmp_path / "claims.json"
    given = ["--runs", str(tmp_path / "runs"), "--seeds", "0,1", "--iterations", "2", "--images", "6"]
    claims_video.main([*given, "--json", str(file)])
    record = json.loads(file.read_text())
    (claim,) = record["claims"]
    assert record["teacher"] == "moving-digits" and len(claim["comparisons"]) == 7
    figures = {name: arm["figures"] for name, arm in claim["arms"].items()}
    assert figures["teacher, 2 steps"][0] == figures["teacher, 2 steps"][1]
    assert figures["gm"][0]["temporal_error"] != figures["gm"][1]["temporal_error"]
    assert figures["gm"][0] != figures["gm, frame by frame"][0]
    _agrees_with_eval(tmp_path, figures["gm"][0])
    # What was made is there, and is not made again.
    assert len(list((tmp_path / "runs").glob("*/run.yaml"))) == 4 and (tmp_path / "runs" / "teacher-2").is_dir()
    monkeypatch.setattr("claim_runs.Study._distil", None)
    monkeypatch.setattr("claims_video.subprocess", None)
    claims_video.main(given)


def _agrees_with_eval(folder: Path, figures: dict[str, float]) -> None:
    """`piflow eval` sees 13 frames of 128 x 128 pixels, of which four and 64 are alike: latents change as much."""
    study = claims_video.VideoStudy(folder / "runs", 2, 6)
    run = study.folder(claims_video.VIDEOS.arms["gm"], 0)
    given = ("--prompts", study.base / claims_video.PROMPTS, "--num-images", 6, "--fine-steps", claims_video.FINE)
    places = ("--output", folder / "report", "--cache", folder / "cache", "--metrics", "temporal", "--json")
    rows = json.loads(piflow("eval", *map(str, (run, *given, *places))))["results"]
    found = {row["metric"]: row["value"] for row in rows if row["kind"] == "student"}
    assert found["temporal-error"] == pytest.approx(figures["temporal_error"], rel=1e-3)
