"""Paths that a run records: the same from every folder, and never those of a stranger's repository."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from piflow_cli.presets.places import with_full_paths
from piflow_cli.presets.resolve import load
from piflow_cli.students.run_settings import differences, read_settings


@pytest.fixture
def project(tiny_teacher, tmp_path, monkeypatch) -> Path:
    """A folder to work in, with the base at models/tiny and pictures at
    data/images.safetensors; the Hub is not to be asked."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *given, **options: pytest.fail("asks the Hub"))
    folder = tmp_path / "project"
    shutil.copytree(tiny_teacher.parent / "teacher", folder / "models" / "tiny")
    (folder / "data").mkdir()
    save_file(
        {"images": torch.zeros(4, 4, 4, dtype=torch.uint8), "labels": torch.arange(4) % 3},
        folder / "data" / "images.safetensors",
    )
    shutil.copy(tiny_teacher, folder / "tiny.yaml")
    monkeypatch.chdir(folder)
    return folder


ARGUMENTS = (
    "distill",
    "--teacher",
    "tiny.yaml",
    "--base",
    "models/tiny",
    "--data",
    "data/images.safetensors",
    "--iterations",
    "1",
    "--quiet",
)


def test_a_run_with_a_base_by_a_short_path_is_used_from_another_folder(cli, project, tmp_path, monkeypatch):
    assert cli(*ARGUMENTS, "--output", "run").code == 0
    settings = read_settings(project / "run" / "run.yaml")
    assert settings.teacher.base == str(project / "models" / "tiny") and settings.data.images == str(
        project / "data" / "images.safetensors"
    )
    with safe_open(project / "run" / "adapter" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert file.metadata()["piflow.base"] == str(project / "models" / "tiny")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = cli(
        "eval", "../project/run", "--metrics", "trajectory", "--num-images", "2", "--quiet", "--output", "report"
    )
    assert outcome.code == 0, outcome.err
    # Where the base has gone, its place is named.
    shutil.rmtree(project / "models")
    outcome = cli(
        "eval", "../project/run", "--metrics", "trajectory", "--num-images", "2", "--quiet", "--output", "again"
    )
    assert outcome.code == 2 and f"there is nothing at {project / 'models' / 'tiny'}" in outcome.err


def test_a_run_goes_on_from_another_folder_and_so_does_one_of_before(cli, project, monkeypatch):
    assert cli(*ARGUMENTS, "--output", "run").code == 0
    monkeypatch.chdir(project / "data")
    again = [
        *ARGUMENTS[:2],
        "../tiny.yaml",
        "--base",
        str(project / "models/tiny"),
        "--data",
        "images.safetensors",
        "--iterations",
        "2",
    ]
    outcome = cli(*again, "--quiet", "--output", "../run")
    assert outcome.code == 0, outcome.err
    # 0.1.0 recorded what was typed.
    monkeypatch.chdir(project)
    settings = read_settings(project / "run" / "run.yaml")
    typed = replace(
        settings,
        teacher=replace(settings.teacher, base="models/tiny"),
        data=replace(settings.data, images="data/images.safetensors"),
    )
    assert differences(typed, settings) == []
    assert differences(replace(typed, teacher=replace(typed.teacher, base="models/other")), settings)


def test_what_is_no_path_here_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "flux-dev", "imagenet-repa"):
        assert with_full_paths(load(name)) == load(name)
    odd = replace(load("digits").teacher, base="x" * 5000, vae="~nobody-of-that-name/vae")
    assert with_full_paths(replace(load("digits"), teacher=odd)).teacher == odd


def test_a_cache_in_the_home_folder_need_not_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    preset = load("flux-dev")
    for written, meant in (("~/c", f"{tmp_path}/c"), ("c", "c"), (None, None)):
        asked = replace(preset, data=replace(preset.data, cache=written))
        assert with_full_paths(asked).data.cache == meant


@pytest.mark.parametrize("option", ["--base", "--data"])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_slip_in_a_path_is_said_and_asked_of_nobody(cli, project, option, dry):
    outcome = cli("distill", "--teacher", "tiny.yaml", option, "models/tinny", "--output", "run", *dry)
    assert outcome.code == 2 and "models/tinny" in outcome.err and not (project / "run").exists()


def test_a_slip_in_the_path_of_captioned_pictures_is_no_data_set(cli, project, monkeypatch):
    monkeypatch.setattr("piflow_cli.data.captioned.open_dataset", lambda *given: pytest.fail("asks the Hub"))
    monkeypatch.setattr("piflow_cli.data.prompts.open_dataset", lambda *given: pytest.fail("asks the Hub"))
    for option in ("--data", "--prompts"):
        outcome = cli("distill", "--teacher", "flux-dev", option, "models/tinny", "--dry-run")
        assert outcome.code == 2 and "at models/tinny" in outcome.err
