"""`piflow inspect-policy` of a text-to-video student, and a slice through the middle of its frames."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import random_gm
from paths import path_of
from PIL import Image
from text_students import saved_student
from zoo import ZOO

from piflow_cli.core.policies.gmflow import GMFlowPolicy
from piflow_cli.errors import UsageError
from piflow_cli.inspection.analysis import _maps
from piflow_cli.inspection.kinds.mixture import mixed
from piflow_cli.inspection.request import Position
from piflow_cli.inspection.slices import slice_of
from piflow_cli.inspection.tensors import thin

FRAMES = 9


def video_policy() -> GMFlowPolicy:
    """A GM policy of one sample of two channels, three latent frames, four rows and five columns."""
    return random_gm(1, 3, 2, (3, 4, 5), raw_src=0.9, dtype=torch.float32)


def test_a_slice_is_of_the_middle_frame() -> None:
    path = path_of(video_policy(), raw_end=0.1)
    cut = slice_of(path, Position(x=3, y=2, axis=1), 128)
    assert cut.state[0].item() == pytest.approx(path.states[0][0, 1, 1, 2, 3].item())
    assert cut.state[-1].item() == pytest.approx(path.end[0, 1, 1, 2, 3].item(), abs=0.02)
    Position(4, 3, 1).check((2, 3, 4, 5))
    with pytest.raises(UsageError, match="which has 5 columns and 4 rows"):
        Position(5, 0).check((2, 3, 4, 5))


def test_maps_are_of_the_middle_frame() -> None:
    found = mixed(video_policy())
    [maps] = _maps(found)
    assert maps.effective.equal(found.effective[:, 1]) and maps.weights.equal(found.weights[:, :, 1])
    assert maps.logstd.equal(found.logstd) and thin(video_policy()).x_src.shape == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("name", ["wan", "wan-a14b"])
def test_a_student_of_videos_is_inspected(cli, text_encoders, unrendered, tmp_path: Path, name: str) -> None:
    adapter = saved_student(ZOO[name], tmp_path)
    options = ["--teacher", str(tmp_path / "tiny.yaml"), "--seeds", "3", "--height", "32", "--width", "48"]
    outcome = cli(
        "inspect-policy", str(adapter), "a fox", *options, "--slice", "2,1", "--quiet", "--output", str(tmp_path / "o")
    )
    assert outcome.code == 0, outcome.err
    [student] = json.loads((tmp_path / "o" / "policy.json").read_text())["students"]
    assert [(shot["width"], shot["height"], shot["frames"]) for shot in student["shots"]] == [(48, 32, FRAMES)]
    assert student["teacher_missing"] is None and all(step["gap"][-1] > 0 for step in student["steps"])
    assert "Of videos, pictures are their middle frames" in (tmp_path / "o" / "policy.html").read_text()
    assert (tmp_path / "o" / "maps.png").is_file() and (tmp_path / "o" / "slice.png").is_file()
    with Image.open(tmp_path / "o" / "samples.png") as grid:
        assert min(grid.size) > 64
