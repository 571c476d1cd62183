"""From noise to states: what is not finite is an error, and never a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter_files import rewrite
from safetensors.torch import save_file
from tiny_pipeline import whole_pipeline
from tiny_students import tiny_dit, tiny_student
from zoo import ZOO, conditioning, states, zoo_preset
from zoo import student_of as adapted

from piflow_cli.core.guidance import Guidance
from piflow_cli.errors import RunError
from piflow_cli.presets.resolve import load
from piflow_cli.reports.images import to_images
from piflow_cli.sampling.denoise import sample_by_pipeline, sample_student, sample_teacher
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.student import student_of
from piflow_cli.teachers import family_of
from piflow_cli.weights.locate import locate

HUGE = 1e38


def overflow(model: torch.nn.Module) -> None:
    """Finite weights whose outputs are not."""
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(HUGE)


@pytest.mark.parametrize("policy", ["gm", "dx", "dx-poly", "momentum"])
def test_a_student_whose_states_are_not_finite_is_refused(policy: str) -> None:
    student = tiny_student(policy)
    overflow(student.model)
    with pytest.raises(RunError, match="network's output is no policy|states that are not finite") as caught:
        sample_student(student, torch.randn(2, 2, 4, 4), student.family.condition(student.model, [0, 1]))
    assert caught.value.exit_code == 1 and caught.value.hint


def test_a_teacher_whose_states_are_not_finite_is_refused() -> None:
    teacher, family = tiny_dit(), family_of("dit")
    overflow(teacher)
    with pytest.raises(RunError, match="states that are not finite"):
        sample_teacher(family, teacher, torch.randn(2, 2, 4, 4), family.condition(teacher, [0, 1]), 2, 1.0, Guidance())


@pytest.mark.parametrize("policy", ["gm", "dx"])
def test_a_pipeline_whose_states_are_not_finite_is_refused(policy: str) -> None:
    row = ZOO["flux"]
    student = adapted(row, row.build(), policy)
    with torch.no_grad():
        for value in student.model.parameters():
            value.fill_(HUGE)
    pipeline = student.family.pipeline(student.model.base, student.scheduler(patch=student.family.token_positions))
    pipeline.set_progress_bar_config(disable=True)
    with pytest.raises(RunError, match="network's output is no policy|states that are not finite"):
        sample_by_pipeline(student.family, pipeline, states(), conditioning(row), 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_picture_that_is_not_finite_is_refused(value: float) -> None:
    x = torch.zeros(2, 1, 4, 4)
    x[1, 0, 2, 2] = value
    with pytest.raises(RunError, match="pictures have values that are not finite"):
        to_images(x)


def test_no_picture_is_left_of_such_a_student(cli, tmp_path) -> None:
    preset, family = load("digits"), family_of("dit")
    save_adapter(
        student_of(family.load(locate(preset.teacher.base)), family, StudentFacts.of(preset), seed=0),
        tmp_path / "adapter",
    )
    rewrite(tmp_path / "adapter", lambda tensors, metadata, config: tensors["proj_out_means.weight"].fill_(HUGE))
    outcome = cli("sample", str(tmp_path / "adapter"), "--output", str(tmp_path / "out"))
    assert (
        outcome.code == 1
        and "not finite" in outcome.err
        and "→" in outcome.err
        and not list(tmp_path.glob("out/*.png"))
    )


def test_no_picture_is_left_of_a_teacher_under_a_lora_that_diverged(cli, tmp_path) -> None:
    """Its values are finite, and what the network makes of them is not."""
    path, _ = zoo_preset(ZOO["flux"], tmp_path)
    whole_pipeline(tmp_path / "base")
    factors = {
        f"transformer.proj_out.lora_{part}.weight": torch.full(shape, 1e30)
        for part, shape in {"A": (2, 32), "B": (16, 2)}.items()
    }
    save_file(factors, tmp_path / "lora.safetensors")
    arguments = [
        "--teacher",
        str(path),
        "a cat",
        "--height",
        "64",
        "--width",
        "96",
        "--steps",
        "2",
        "--lora",
        str(tmp_path / "lora.safetensors"),
    ]
    outcome = cli("sample", *arguments, "--output", str(tmp_path / "out"))
    assert outcome.code == 1 and "not finite" in outcome.err and not list(Path(tmp_path, "out").glob("*.png"))
