"""A damaged checkpoint of a run that is started again: named and set aside; from the one before, the run ends alike."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_rows import course_of
from safetensors.torch import load_file

from piflow_cli.students.run_checkpoints import checkpoints

WEIGHTS = "adapter/diffusion_pytorch_model.safetensors"
NEWEST = "checkpoints/0000006"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(data)


WAYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda run: flip(run / NEWEST / "training.safetensors"), "the checksum of training.safetensors"),
    "cut short": (lambda run: os.truncate(run / NEWEST / "training.safetensors", 999), "the checksum of training"),
    "without tensors": (
        lambda run: (run / NEWEST / "training.safetensors").unlink(),
        "training.safetensors is missing",
    ),
    "without record": (lambda run: (run / NEWEST / "state.json").unlink(), "state.json is missing"),
    "empty": (lambda run: (run / NEWEST / "state.json").write_text(""), "Expecting value"),
}


@pytest.fixture(scope="module")
def whole(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six iterations that nothing happened to, and its checkpoints of 4 and 6."""
    from piflow_cli.app import main

    folder = tmp_path_factory.mktemp("damaged") / "whole"
    assert main([*command(tiny_teacher, folder), "--quiet"]) == 0
    return folder


def command(tiny_teacher: Path, folder: Path) -> list[str]:
    return ["distill", "--teacher", str(tiny_teacher), "--output", str(folder), "--set", "output.preview_every=0"]


@pytest.mark.parametrize("way", WAYS)
def test_the_one_before_it_goes_on_to_the_same_end(cli, tiny_teacher, whole, tmp_path, way: str) -> None:
    run, (damage, reason) = Path(shutil.copytree(whole, tmp_path / "run")), WAYS[way]
    damage(run)
    assert json.loads(cli("status", str(run), "--json").out)["checkpoint"] == str(run / "checkpoints" / "0000004")
    outcome = cli(*command(tiny_teacher, run))
    assert outcome.code == 0, outcome.err
    said = [line for line in outcome.err.splitlines() if line.startswith("Warning: the checkpoint")]
    assert len(said) == 1 and f"{run / NEWEST} is damaged: {reason}" in said[0]
    assert f"it is now {run / NEWEST}.damaged, and the run goes on from {run / 'checkpoints' / '0000004'}" in said[0]
    assert (run / f"{NEWEST}.damaged").is_dir() and [path.name for path in checkpoints(run / "checkpoints")] == [
        "0000004",
        "0000006",
    ]
    for name in (WEIGHTS, f"{NEWEST}/training.safetensors"):
        expected, found = load_file(whole / name), load_file(run / name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(value, found[key]) for key, value in expected.items()), name
    assert course_of(run) == course_of(whole)


def test_where_none_is_whole_the_run_ends_and_everything_stays(cli, tiny_teacher, whole, tmp_path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for path in checkpoints(run / "checkpoints"):
        flip(path / "training.safetensors")
    outcome = cli(*command(tiny_teacher, run), "--quiet")
    assert outcome.code == 1 and f"no checkpoint in {run / 'checkpoints'} is whole: 0000006" in outcome.err
    assert "--no-resume" in outcome.err and len(checkpoints(run / "checkpoints")) == 2
    assert course_of(run) == course_of(whole)
    said = cli("status", str(run))
    assert said.code == 1 and "broken" in said.out and "0000006 is damaged" in said.err
