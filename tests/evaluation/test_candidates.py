"""Who is measured: everything that shapes a picture is part of its key, and nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import pytest
import torch
from eval_requests import request
from safetensors.torch import load_file, save_file

from piflow_cli.console import Console
from piflow_cli.evaluation.candidates import Candidate, student_candidates, teacher_candidate
from piflow_cli.sampling.opened import open_model
from piflow_cli.sampling.request import SampleRequest
from piflow_cli.sampling.teacher import own_teacher
from piflow_cli.students.adapter_digests import DIGESTS
from piflow_cli.students.locate import CONFIG_NAME, WEIGHTS_NAME
from piflow_cli.students.open import find_student
from piflow_cli.students.student import Student
from piflow_cli.weights.stored import read_safetensors


def identity(run: Path, **given) -> dict:
    opened = open_model(
        find_student(run), SampleRequest(seeds=(0, 1)), device=torch.device("cpu"), console=Console(quiet=True)
    )
    (candidate,) = student_candidates(opened, request(**given), "tiny")
    return candidate.identity


@pytest.mark.parametrize("given", [{"steps": (3,)}, {"substeps": 7}, {"temperature": 0.5}])
def test_settings_are_part_of_a_student(tiny_run, given: dict) -> None:
    assert identity(tiny_run, **given) != identity(tiny_run)


def test_a_student_is_known_by_its_weights_and_not_by_its_place(tiny_run, tmp_path) -> None:
    moved = shutil.copytree(tiny_run, tmp_path / "moved")
    assert identity(moved) == identity(tiny_run)
    weights = moved / "adapter" / WEIGHTS_NAME
    metadata = {name: value for name, value in read_safetensors(weights)[0].items() if name not in DIGESTS}
    tensors = load_file(weights)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] + 1e-3}, weights, metadata)
    assert identity(moved) != identity(tiny_run)


def test_the_config_of_a_student_from_elsewhere_is_part_of_it(tiny_run, tmp_path) -> None:
    """No tensor shows how a network is told the time; a checksum of the config is in our own files alone."""
    moved = shutil.copytree(tiny_run / "adapter", tmp_path / "moved")
    weights, config = moved / WEIGHTS_NAME, moved / CONFIG_NAME
    metadata = {name: value for name, value in read_safetensors(weights)[0].items() if name not in DIGESTS}
    save_file(load_file(weights), weights, metadata)
    before = identity(moved)
    fields = json.loads(config.read_text())
    config.write_text(json.dumps({**fields, "time_scale": 2 * fields["time_scale"]}))
    assert identity(moved) != before


def test_a_teacher_is_known_by_its_steps_and_its_files(tiny_run) -> None:
    opened = open_model(
        find_student(tiny_run), SampleRequest(seeds=(0, 1)), device=torch.device("cpu"), console=Console(quiet=True)
    )
    teacher = own_teacher(opened.student, tiny_run)
    one, again, two = (teacher_candidate(opened, teacher, steps, request()).identity for steps in (1, 1, 2))
    assert one == again != two
    assert (one["kind"], one["shift"], one["guidance"][0]) == ("teacher", teacher.shift, teacher.guidance.scale)


def test_the_guidance_of_a_second_network_is_part_of_a_teacher(tiny_run) -> None:
    opened = open_model(
        find_student(tiny_run), SampleRequest(seeds=(0, 1)), device=torch.device("cpu"), console=Console(quiet=True)
    )
    teacher = own_teacher(opened.student, tiny_run)
    settings = [replace(teacher.guidance, below=below) for below in (None, (0.875, 3.0), (0.875, 2.0))]
    known = [teacher_candidate(opened, replace(teacher, guidance=one), 1, request()).identity for one in settings]
    assert not any(known[place] == known[other] for place, other in ((0, 1), (0, 2), (1, 2)))


def test_the_precision_of_the_base_is_part_of_a_teacher(tiny_run) -> None:
    opened = open_model(
        find_student(tiny_run), SampleRequest(seeds=(0, 1)), device=torch.device("cpu"), console=Console(quiet=True)
    )
    other = replace(
        opened,
        student=Student(
            opened.student.family, opened.student.model, replace(opened.student.facts, base_dtype="bfloat16")
        ),
    )
    teacher = own_teacher(opened.student, tiny_run)
    one, two = (teacher_candidate(each, teacher, 1, request()).identity for each in (opened, other))
    assert one != two


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("digits", "digits-4"),
        ("/abs/runs/digits", "????????-abs-runs-digits-4"),
        ("../x", "????????-x-4"),
        ("teacher of a", "????????-teacher-of-a-4"),
        ("teacher", "????????-teacher-4"),
    ],
)
def test_pictures_stay_below_the_report_whatever_a_student_is_called(name: str, folder: str) -> None:
    assert fnmatch(folder_of(name), folder)


def test_no_two_models_share_a_folder() -> None:
    assert folder_of("teacher", "teacher") == "teacher-4" != folder_of("teacher")
    assert len({folder_of(name) for name in ("a b", "a-b", "a/b", "a  b", "-a-b")}) == 5


def folder_of(name: str, kind: Literal["student", "teacher"] = "student") -> str:
    return Candidate(name, kind, "gm, 8", 4, {}, lambda noise, conditioning: noise).folder
