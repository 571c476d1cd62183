"""Kills and power cuts at every call that a save makes, and what the next start makes of what was left.

The suite looks at every state of a run, and starts it again from some. By hand, from all (some minutes):

    PIFLOW_FAULTS=all python -m pytest -n 0 tests/faults/test_power.py
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from disk import KINDS, Disk, watched
from run_rows import course_of
from safetensors.torch import load_file

from piflow_cli.students.open import open_student
from piflow_cli.students.run_checkpoints import check_checkpoint, checkpoints
from piflow_cli.system import files
from piflow_cli.training import run

ALL = os.environ.get("PIFLOW_FAULTS") == "all"
# Without all of them: so many states lie between two that are started from.
STRIDE = 1 if ALL else 61
WEIGHTS = "adapter/diffusion_pytorch_model.safetensors"
TENSORS = "checkpoints/0000006/training.safetensors"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds open files by /proc")


def command(tiny_teacher: Path, folder: Path) -> list[str]:
    # Pictures of the end are no part of what a save must keep.
    return ["distill", "--teacher", str(tiny_teacher), "--output", str(folder), "--set", "output.preview_every=0"]


@pytest.fixture(params=["exchange", "two steps"])
def recorded_run(request, cli, tiny_teacher, tmp_path, monkeypatch) -> tuple[Disk, Path]:
    """The states that a run of six iterations and three saves leaves; its folder when nothing happens to it."""
    if request.param == "two steps":
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    monkeypatch.setattr(run, "save_comparison", lambda *given: None)
    monkeypatch.setattr(run, "draw_loss", lambda *given: None)
    root = tmp_path / "runs"
    root.mkdir()
    with watched(root, tmp_path / "states") as disk:
        assert cli(*command(tiny_teacher, root / "out"), "--quiet").code == 0
    return disk, root / "out"


def completed(calls: list[str], name: str) -> list[int]:
    """Numbers of the calls after which something new stands under ``name``, and stays
    there: the fsync of the folder that has it."""
    moves = ("rename", "exchange", "replace")
    given = [number for number, call in enumerate(calls) if call.split()[0] in moves and call.split()[-1] == name]
    return [
        next(number for number, call in enumerate(calls) if number > start and call.startswith("fsync"))
        for start in given
    ]


def test_what_was_saved_is_whole_whenever_the_run_ends(recorded_run) -> None:
    disk, _ = recorded_run
    numbers = {iteration: completed(disk.calls, f"000000{iteration}") for iteration in (2, 4, 6)}
    students = dict(zip((2, 4, 6), completed(disk.calls, "adapter"), strict=True))
    assert all(len(found) == 1 for found in numbers.values())
    exchanged = any(call.startswith("exchange") for call in disk.calls)
    for number, (call, kind, left) in enumerate(disk.all_states()):
        due = max((iteration for iteration, (end,) in numbers.items() if end < number // len(KINDS)), default=0)
        found = checkpoints(left / "out" / "checkpoints")
        assert max((int(path.name) for path in found), default=0) >= due, (call, kind)
        for path in found:
            check_checkpoint(path)
        due = max((iteration for iteration, end in students.items() if end < number // len(KINDS)), default=0)
        if (left / "out" / "adapter").is_dir():
            assert open_student(left / "out" / "adapter").facts.iterations >= due, (call, kind)
        else:
            assert due == 0 or not exchanged, (call, kind)


def test_the_next_start_finishes_the_run_and_clears_away(recorded_run, cli, tiny_teacher, tmp_path) -> None:
    disk, whole = recorded_run
    expected = load_file(whole / TENSORS)
    for call, kind, left in disk.all_states()[::STRIDE]:
        folder = tmp_path / "again" / "out"
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(left, folder.parent)
        outcome = cli(*command(tiny_teacher, folder), "--json")
        assert outcome.code == 0, (call, kind, outcome.err)
        assert json.loads(outcome.out)["iterations"] == 6
        found = load_file(folder / TENSORS)
        assert all(torch.equal(value, found[name]) for name, value in expected.items()), (call, kind)
        student = load_file(folder / WEIGHTS)
        assert all(torch.equal(value, student[name]) for name, value in load_file(whole / WEIGHTS).items()), (
            call,
            kind,
        )
        for name in ("adapter/config.json", "run.yaml", "data.sha256"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), (call, kind, name)
        assert course_of(folder) == course_of(whole), (call, kind)
        assert sorted(os.listdir(folder)) == sorted(os.listdir(whole)), (call, kind)
        assert list(folder.rglob(".*")) == [], (call, kind)
