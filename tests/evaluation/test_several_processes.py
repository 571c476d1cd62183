"""`piflow eval` on several processes gives the numbers and the pictures of one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from own_process import piflow


@pytest.mark.long
def test_the_report_and_the_pictures_are_those_of_one_process(cli, tiny_run, tmp_path, monkeypatch) -> None:
    """Blocks of states and features too, so that what one number of processes made another finds."""
    told = ["eval", tiny_run, "--num-images", "20", "--batch-size", "6", "--fine-steps", "4", "--teacher-steps", "2"]
    told += ["--metrics", "fid,kid,alignment,trajectory", "--device", "cpu", "--save-images", "--json"]
    monkeypatch.chdir(tmp_path)
    alone = cli(*map(str, told), "--output", "one", "--cache", "one-cache")
    command = piflow(*told, "--output", "two", "--cache", "two-cache", "--num-processes", "2")
    done = subprocess.run(command, capture_output=True, text=True)
    assert (alone.code, done.returncode, done.stderr) == (0, 0, "")
    one, two = json.loads(alone.out), json.loads(done.stdout)
    assert (one.pop("processes"), two.pop("processes")) == (1, 2)
    rows, others = one.pop("results"), two.pop("results")
    assert len(rows) > 5 and [{**row, "value": 0} for row in rows] == [{**row, "value": 0} for row in others]
    assert [row["value"] for row in rows] == pytest.approx([row["value"] for row in others], rel=1e-6)
    files = ("report", "numbers", "quality", "error", "samples", "seconds")
    assert {name: one[name] for name in one if name not in files} == {
        name: two[name] for name in two if name not in files
    }
    for folder in ("{}/images", "{}-cache/eval"):
        assert contents(tmp_path / folder.format("one")) == contents(tmp_path / folder.format("two"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
