"""A plan refuses the folder that its run would refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from piflow_cli.presets.resolve import load, resolve
from piflow_cli.students.runs import RunFolder


def planned(cli, teacher: Path, folder: Path, *more: str):
    return cli("distill", "--teacher", str(teacher), "--output", str(folder), "--device", "cpu", "--dry-run", *more)


def test_of_another_run(cli, tmp_path, tiny_teacher):
    folder = tmp_path / "run"
    folder.mkdir()
    RunFolder(folder).write_settings(resolve(tiny_teacher, None, ["seed=7"], {}))
    before = sorted(folder.iterdir())
    outcome = planned(cli, tiny_teacher, folder)
    assert outcome.code == 2 and f"{folder} belongs to another configuration: seed was 7, is 0" in outcome.err
    assert planned(cli, tiny_teacher, folder, "--seed", "7").code == 0
    # The run would move the other one aside.
    assert planned(cli, tiny_teacher, folder, "--no-resume").code == 0
    assert sorted(folder.iterdir()) == before


def test_of_other_files(cli, tmp_path, tiny_teacher):
    (tmp_path / "notes.txt").write_text("mine")
    outcome = planned(cli, tiny_teacher, tmp_path)
    assert outcome.code == 2 and "is not empty and holds no run" in outcome.err


@pytest.mark.parametrize("flags", [(), ("--dry-run",)], ids=["run", "plan"])
def test_of_a_preset_of_the_same_name(cli, tmp_path, monkeypatch, flags):
    """The usual folder is called like the preset, and a preset of one's own may be called like a shipped one."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "digits"
    folder.mkdir(parents=True)
    RunFolder(folder).write_settings(load("digits"))
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: digits\nname: digits\nsummary: mine\nimitation: {window: 3}\n")
    outcome = cli("distill", "--teacher", str(mine), "--device", "cpu", *flags)
    told = "runs/digits belongs to another configuration: imitation.window was 5, is 3"
    assert outcome.code == 2 and told in outcome.err
