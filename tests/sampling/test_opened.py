"""Opened models show what `piflow sample` shows, with the teachers that their students were distilled from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from piflow_cli.console import Console
from piflow_cli.core.guidance import Guidance
from piflow_cli.errors import UsageError
from piflow_cli.presets.resolve import load
from piflow_cli.reports.images import to_images
from piflow_cli.sampling.denoise import sample_teacher
from piflow_cli.sampling.opened import open_model
from piflow_cli.sampling.request import SampleRequest
from piflow_cli.sampling.teacher import own_teacher
from piflow_cli.sampling.trajectory import walk
from piflow_cli.students.open import find_student

CPU = torch.device("cpu")


def test_the_end_of_the_path_is_the_sampled_picture(cli, tiny_run, tmp_path) -> None:
    assert cli("sample", str(tiny_run), "--seeds", "3,8", "--output", str(tmp_path), "--quiet").code == 0
    opened = open_model(find_student(tiny_run), SampleRequest(seeds=(3, 8)), device=CPU, console=Console(quiet=True))
    *_, last = walk(opened.student, opened.noise(opened.specs), opened.conditioning(opened.specs))
    for spec, image in zip(opened.specs, to_images(opened.decode(last.end)), strict=True):
        with Image.open(tmp_path / f"{spec.stem}.png") as file:
            assert abs(np.asarray(file).astype(int) - np.asarray(image).astype(int)).max() <= 1


def test_a_teacher_is_that_of_the_run(tiny_run, tiny_teacher) -> None:
    opened = open_model(find_student(tiny_run), SampleRequest(seeds=(0, 1)), device=CPU, console=Console(quiet=True))
    teacher, section = own_teacher(opened.student, tiny_run), load(tiny_teacher).teacher
    given, noise = opened.conditioning(opened.specs), opened.noise(opened.specs)
    model = opened.student.family.load(Path(section.base))
    expected = sample_teacher(
        opened.student.family,
        model,
        noise,
        given,
        4,
        opened.student.facts.shift,
        Guidance(section.guidance, section.guidance_interval),
    )
    torch.testing.assert_close(teacher.sample(noise, given, 4), expected, rtol=0, atol=0)
    # Its settings are in the run alone: no shipped preset has this name.
    with pytest.raises(UsageError, match="no shipped preset"):
        own_teacher(opened.student)


def test_what_sampling_refuses_an_opened_model_refuses(tiny_run) -> None:
    with pytest.raises(UsageError, match="class labels, not text"):
        open_model(find_student(tiny_run), SampleRequest(prompts=("a fox",)), device=CPU, console=Console(quiet=True))
