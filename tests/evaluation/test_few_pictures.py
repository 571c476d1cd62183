"""Metrics that take more pictures than there are: left out where nobody asked, refused before anything is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from text_students import saved_student
from zoo import ZOO, zoo_preset

from piflow_cli.evaluation.extractors.features import FeatureSet
from piflow_cli.evaluation.extractors.moments import moments
from piflow_cli.reports.images import save_png, to_images
from piflow_cli.students.runs import RunFolder

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Three pictures to measure, and three others to compare them with."""
    for seed, name in enumerate(("ours", "theirs")):
        pictures = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
        for index, picture in enumerate(to_images(pictures)):
            save_png(picture, tmp_path / name / f"{index}.png")
    return ["--images", str(tmp_path / "ours"), "--reference", str(tmp_path / "theirs"), "--extractor", "pixels"]


def metrics(outcome) -> set[str]:
    assert outcome.code == 0, outcome.err
    return {row["metric"] for row in json.loads(outcome.out)["results"]}


def test_three_pictures_of_a_folder_are_measured_without_what_takes_more(cli, folders, tmp_path) -> None:
    outcome = cli("eval", *folders, "--output", str(tmp_path / "report"))
    assert outcome.code == 0 and "FID" in outcome.out and "recall" not in outcome.out
    assert "pr is left out: it takes 4 pictures, and there are 3" in outcome.err


def test_a_report_of_pictures_names_what_is_measured_of_them_and_limits_hold_for_it(evaluate, folders) -> None:
    outcome = evaluate(*folders, "--fail-above", "kid=-1e9")
    assert outcome.code == 1 and "kid by pixels of" in outcome.err
    assert json.loads(outcome.out)["metrics"] == "fid,kid,is,pr"
    assert {row["metric"] for row in json.loads(outcome.out)["results"]} == {"fid", "kid"}


def test_quick_takes_up_to_a_number_of_a_folder_s_pictures_and_full_is_of_students(evaluate, folders, monkeypatch):
    monkeypatch.setattr("piflow_cli.evaluation.folder_run.QUICK_IMAGES", 2)
    report = json.loads(evaluate(*folders, "--quick").out)
    (row,) = report["results"]
    assert (report["protocol"], report["metrics"], row["images"], row["reference_images"]) == ("quick", "fid", 2, 3)
    monkeypatch.undo()
    (row,) = json.loads(evaluate(*folders, "--quick").out)["results"]
    assert row["images"] == 3


def test_a_limit_without_a_reference_is_refused_at_once(evaluate, folders, tmp_path) -> None:
    outcome = evaluate(*folders[:2], "--save-statistics", tmp_path / "s.safetensors", "--fail-above", "fid=1")
    assert outcome.code == 2 and "--fail-above wants to know what to compare with: --reference DIR" in outcome.err


def test_a_metric_that_was_named_is_refused_before_the_reference_is_read(evaluate, folders, monkeypatch) -> None:
    monkeypatch.setattr("piflow_cli.evaluation.folder_run.open_reference", None)
    outcome = evaluate(*folders, "--metrics", "fid,pr")
    assert outcome.code == 2 and "--metrics pr: it takes 4 pictures, and there are 3" in outcome.err


def test_pictures_of_the_reference_count_where_each_is_compared(evaluate, tiny_run, tmp_path) -> None:
    three = torch.randn(3, 16)
    kept, told = tmp_path / "three.safetensors", ["--num-images", "12", "--fine-steps", "2"]
    FeatureSet("pixels", "none", "three", 3, moments(three), three).save(kept)
    assert metrics(evaluate(tiny_run, "--reference", kept, *told)).isdisjoint({"precision", "recall"})
    outcome = evaluate(tiny_run, "--reference", kept, *told, "--metrics", "pr")
    assert outcome.code == 2 and "--metrics pr: it takes 4 pictures, and three has 3" in outcome.err


def test_a_student_is_asked_for_nothing_that_would_be_refused_afterwards(evaluate, tiny_run, monkeypatch) -> None:
    monkeypatch.setattr("piflow_cli.evaluation.candidates.sample_student", None)
    from piflow_cli.evaluation.extractors.pixels import Pixels

    monkeypatch.setattr(Pixels, "logits", lambda self, features: features)
    outcome = evaluate(tiny_run, "--metrics", "is", "--num-images", "9", "--extractor", "pixels")
    assert outcome.code == 2 and "--metrics is: it takes 10 pictures, and there are 9" in outcome.err


def test_one_prompt_has_no_distribution_and_all_else(evaluate, text_encoders, tmp_path) -> None:
    _, preset = zoo_preset(ZOO["flux"], tmp_path)
    saved_student(ZOO["flux"], tmp_path)
    RunFolder(tmp_path).write_settings(preset)
    (tmp_path / "prompts.txt").write_text("a fox\n")
    told = ["--prompts", tmp_path / "prompts.txt", "--fine-steps", "2", "--extractor", "pixels"]
    outcome = evaluate(tmp_path, *told, "--height", "32", "--width", "32")
    assert metrics(outcome) >= {"mse", "velocity-error"} and "fid" not in metrics(outcome)
    refused = evaluate(tmp_path, *told, "--metrics", "fid", "--height", "32", "--width", "32")
    assert refused.code == 2 and "--metrics fid: it takes 2 pictures, and there is one" in refused.err
