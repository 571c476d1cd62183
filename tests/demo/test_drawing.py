"""What the window draws is what `piflow sample` makes, with the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from text_students import saved_student
from zoo import ZOO, Row

import piflow_cli as piflow
from piflow_cli.console import Console
from piflow_cli.demo.drawing import Asked, Drawer
from piflow_cli.sampling.request import SampleRequest
from piflow_cli.students.open import find_student

CPU = torch.device("cpu")


def drawer(student: Path, **told: object) -> Drawer:
    return Drawer(find_student(student), SampleRequest(**told), CPU, Console(quiet=True))


@pytest.mark.parametrize("temperature", [None, 0.25])
def test_a_class_is_drawn_as_piflow_sample_draws_it(tiny_run: Path, tiny_teacher: Path, temperature) -> None:
    draw, told = drawer(tiny_run), {"seeds": [7], "labels": [2], "device": "cpu"}
    for steps in (2, 3):
        drawn = draw.draw(Asked(2, 7, steps, 5, temperature))
        (ours,) = piflow.sample(tiny_run, steps=steps, temperature=temperature, **told)
        (theirs,) = piflow.sample(teacher=str(tiny_teacher), steps=5, **told)
        assert drawn.student.tobytes() == ours.tobytes() and drawn.teacher.tobytes() == theirs.tobytes()
    # The sample, the components in effect, and the weights of three components, and two colour bars.
    assert len(drawn.maps.axes) == 5 + 2
    assert draw.draw(Asked(2, 7, 2, 0)).teacher is None


def test_a_prompt_is_drawn_as_piflow_sample_draws_it(text_encoders, tmp_path: Path) -> None:
    row: Row = ZOO["flux"]
    adapter = saved_student(row, tmp_path)
    draw = drawer(adapter, height=64, width=96)
    for prompt in ("a fox", "two", "a fox"):
        drawn = draw.draw(Asked(prompt, 3, 2, 0))
        (ours,) = piflow.sample(adapter, prompt, seeds=[3], height=64, width=96, device="cpu")
        assert drawn.student.tobytes() == ours.tobytes()
