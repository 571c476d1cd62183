"""A file system that fills up while a run trains on it, where the last checkpoint stays; and one that is read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from run_rows import course_of
from safetensors.torch import load_file

from piflow_cli.students.run_checkpoints import newest_whole
from piflow_cli.students.run_status import status_of
from piflow_cli.training import loop, run

SIZE = 4 << 20  # bytes
WEIGHTS = "adapter/diffusion_pytorch_model.safetensors"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of some megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode != 0:
        pytest.skip("file systems may not be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("wb") as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"\0" * 4096)
            file.flush()


@pytest.mark.parametrize("at", [3, 4])
def test_the_last_checkpoint_stays(cli, tiny_teacher, disk, tmp_path, monkeypatch, at) -> None:
    """At 3 the rows of the metrics meet it first, or the save of 4; a save at 4 that began well cannot end so."""
    arguments = ["distill", "--teacher", str(tiny_teacher), "--device", "cpu", "--set", "output.preview_every=0"]
    assert cli(*arguments, "--quiet", "--output", str(tmp_path / "whole")).code == 0

    def step(session: loop.Session) -> None:
        loop.train_step(session)
        if session.iteration == at:
            fill(disk)

    monkeypatch.setattr(run, "train_step", step)
    folder = disk / "run"
    outcome = cli(*arguments, "--output", str(folder))
    assert outcome.code == 1 and "Error: the disk is full" in outcome.err and "the same command again" in outcome.err
    checkpoint, damaged = newest_whole(folder / "checkpoints")
    assert checkpoint is not None and checkpoint.name == "0000002" and damaged == []
    assert status_of(folder).state == "stopped"
    assert not list(folder.rglob("*.tmp"))
    (disk / "ballast").unlink()
    monkeypatch.undo()
    assert cli(*arguments, "--quiet", "--output", str(folder)).code == 0
    for name in ("checkpoints/0000006/training.safetensors", WEIGHTS):
        expected, found = load_file(tmp_path / "whole" / name), load_file(folder / name)
        assert all(torch.equal(value, found[key]) for key, value in expected.items()), name
    assert course_of(folder) == course_of(tmp_path / "whole")
    assert not list(folder.rglob(".*"))


def test_a_read_only_folder_is_refused_before_anything_is_loaded(cli, tiny_teacher, disk) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(disk / "run"))
    assert outcome.code == 2 and "cannot be made" in outcome.err and "--output DIR" in outcome.err
    assert os.listdir(disk) == []
