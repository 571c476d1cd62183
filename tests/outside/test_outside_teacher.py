"""A family of teachers of another package, and its preset, named by an entry point alone, go where ours go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from outside_packages import PACKAGES, installed, run_commands
from PIL import Image

from piflow_cli.presets.folders import presets_root

CLASSES = 3


def levels(folder: Path) -> np.ndarray:
    """The pictures of one seed for each class, (classes, 4, 4) in [-1, 1]."""
    pictures = [np.asarray(Image.open(folder / f"{number:06d}.png")) for number in range(CLASSES)]
    return np.stack(pictures) / 127.5 - 1


def test_a_family_of_another_package_is_distilled_sampled_and_measured(tmp_path) -> None:
    """Its data have one level a class, m, and its velocity is (x - m) / sigma: Euler steps end at m whatever their
    number, and a student starts as its teacher."""
    drawn = ["--seeds", "0-2", "--labels", "0-2", "--quiet"]
    measured = ["--metrics", "fid,alignment", "--num-images", "8", "--cache", "cache", "--quiet"]
    distil = ["distill", "--teacher", "plain", "--output", "run", "--quiet"]
    commands = [
        ["sample", "--teacher", "plain", *drawn, "--steps", "2", "--output", "teacher"],
        [*distil, "--iterations", "2"],
        [*distil],
        ["sample", "run", *drawn, "--output", "student"],
        ["sample", "run/adapter", *drawn, "--output", "again"],
        ["eval", "run", *measured, "--output", "report"],
    ]
    done = run_commands(commands, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    m = (np.arange(1, CLASSES + 1) / CLASSES)[:, None, None]
    assert abs(levels(tmp_path / "teacher") - m).max() < 0.005
    assert abs(levels(tmp_path / "student") - m).max() < 0.5 / CLASSES, "the level of another class is no nearer"
    assert (levels(tmp_path / "again") == levels(tmp_path / "student")).all()
    found = json.loads((tmp_path / "report" / "report.json").read_text())["results"]
    assert {row["metric"]: row["value"] for row in found}["mse"] < 0.25 / CLASSES**2


def ours() -> list[str]:
    """The presets that piflow ships, as their files have them."""
    return sorted(path.stem for path in presets_root().glob("*.yaml"))


def test_it_is_listed_after_ours_and_suggested_where_a_name_is_wrong(tmp_path) -> None:
    done = run_commands([["distill", "--list-teachers"], ["distill", "--teacher", "plaim"]], tmp_path)
    names = [line.split()[0] for line in done.stdout.splitlines()]
    listed = [*ours(), "plain"]
    assert names[names.index("NAME") + 1 :][: len(listed)] == listed
    assert done.returncode == 2 and "did you mean plain?" in done.stderr


def test_the_shell_completes_its_name(tmp_path) -> None:
    asked = {"_PIFLOW_COMPLETE": "complete_bash", "COMP_WORDS": "piflow distill --teacher pl", "COMP_CWORD": "3"}
    command = [sys.executable, "-c", "from piflow_cli.app import main; main()"]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES), **asked}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["plain"], done.stderr


def test_its_family_is_named_where_one_is_unknown(cli, monkeypatch, tiny_teacher, tmp_path) -> None:
    with installed(monkeypatch):
        outcome = cli(
            "distill",
            "--teacher",
            str(tiny_teacher),
            "--set",
            "teacher.family=plane",
            "--output",
            str(tmp_path / "run"),
        )
    assert outcome.code == 2 and "unknown model family 'plane'" in outcome.err and "z-image, plain" in outcome.err
