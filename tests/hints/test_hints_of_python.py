"""Refusals that the command line comes before, with another hint: made in Python."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_students import tiny_student

from piflow_cli.errors import PiflowError
from piflow_cli.evaluation.distributions import Sides
from piflow_cli.evaluation.extractors import open_extractor
from piflow_cli.evaluation.extractors.features import FeatureSet
from piflow_cli.evaluation.extractors.moments import moments
from piflow_cli.evaluation.metrics.inception_score import inception_scores
from piflow_cli.presets.resolve import load
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.open import find_student
from piflow_cli.teachers import family_of


@pytest.fixture
def student(tmp_path) -> str:
    save_adapter(tiny_student(), tmp_path / "student")
    return str(tmp_path / "student")


def scores_of_pixels(student: str) -> None:
    """Raw pixels are no classes."""
    features = torch.rand(4, 16)
    pictures = FeatureSet("pixels", "none", "pictures", 4, moments(features), features)
    inception_scores(Sides(pictures, pictures, open_extractor("pixels", torch.device("cpu")), False))


@pytest.mark.parametrize(
    ("act", "hint"),
    [
        (lambda student: find_student(student).load(precision="fp8"), "leave --base-precision out"),
        (lambda student: family_of("dit").encoders(load("digits").teacher), "distill: --data SOURCE, and no --prompts"),
        (scores_of_pixels, "leave it out of --metrics"),
    ],
    ids=["precision of a whole student", "texts for a teacher of classes", "classes of pixels"],
)
def test_a_refusal_that_only_python_meets_has_its_hint(student, act: Callable[[str], object], hint: str) -> None:
    with pytest.raises(PiflowError) as caught:
        act(student)
    assert hint in caught.value.hint
