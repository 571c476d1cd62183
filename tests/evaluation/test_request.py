"""What `piflow eval` refuses before it looks at anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from eval_requests import request
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.errors import UsageError
from piflow_cli.evaluation.metric_kinds import STUDENT, metric_kinds, metric_names, needing
from piflow_cli.evaluation.request import parse_metrics
from piflow_cli.presets.bounds import BATCH, EVALUATIONS, MEASURED, SUBSTEPS, TEACHER_STEPS


@given(st.permutations(metric_names()), st.integers(1, len(metric_names())))
def test_metrics_are_read_in_any_order_and_come_in_one(names, count: int) -> None:
    assert parse_metrics(" , ".join(names[:count])) == tuple(name for name in metric_names() if name in names[:count])


@pytest.mark.parametrize("kind", metric_kinds(), ids=lambda kind: kind.name)
def test_a_metric_goes_by_its_numbers_as_reports_print_them(kind) -> None:
    for number in kind.numbers:
        assert parse_metrics(number.name) == parse_metrics(number.title) == (kind.name,)
    assert parse_metrics(",".join(number.title for number in kind.numbers)) == (kind.name,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fid,fidd", "did you mean fid"),
        ("FIDD", "mean fid"),
        ("", "there is no metric ''"),
        ("fid,,kid", "''"),
        ("a,b", "'a', 'b'"),
    ],
)
def test_an_unknown_metric_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_metrics(text)
    assert "fid,kid" in caught.value.hint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither a student nor --images"),
        ({"students": ("a", "b", "a")}, "the student a comes twice"),
        ({"students": ("a",), "metrics": ("clip",)}, "--prompts FILE"),
        ({"students": ("a",), "num_images": 1}, "one image has no distribution"),
        ({"students": ("a",), "seeds": (3,)}, "one image has no distribution"),
        ({"students": ("a",), "seeds": (3, 4), "num_images": 2}, "exclude each other"),
        ({"images": Path("d")}, "--reference DIR"),
        ({"images": Path("d"), "reference": "r", "students": ("a",)}, "name no student"),
        ({"images": Path("d"), "reference": "teacher"}, "belongs to a student"),
        ({"images": Path("d"), "reference": "data"}, "belongs to a student"),
        ({"images": Path("d"), "reference": "r", "protocol": "full"}, "--full is how many images a student makes"),
        (
            {"images": Path("d"), "reference": "r", "labels": (1,), "base": "b"},
            "--labels, --base: settings of a student",
        ),
        ({"students": ("a",), "save_statistics": Path("s.safetensors")}, "in the student's place --images DIR"),
        ({"images": Path("d"), "save_statistics": Path("s.npz")}, "called .safetensors"),
        (
            {"images": Path("d"), "save_statistics": Path("s.safetensors"), "metrics": ("fid",)},
            "--metrics wants to know",
        ),
        (
            {"images": Path("d"), "save_statistics": Path("s.safetensors"), "extractors": ("pixels", "inception")},
            "of one --extractor, and 2",
        ),
        (
            {
                "images": Path("d"),
                "reference": "r",
                "save_statistics": Path("s.safetensors"),
                "metrics": ("patch-fid",),
            },
            "patch-fid takes none",
        ),
        ({"students": ("a", "")}, "STUDENT: the name is empty"),
        ({"students": ("a",), "reference": ""}, "--reference: the name is empty"),
        ({"students": ("a",), "trust_weights": True}, "--inception-weights FILE"),
        ({"students": ("a",), "clip": "c"}, "--clip is of the metric clip"),
        ({"students": ("a",), "num_images": MEASURED.most + 1}, "--num-images must be at most 1,000,000,"),
        ({"students": ("a",), "seeds": range(MEASURED.most + 1)}, "--seeds must be at most 1,000,000,"),
        ({"students": ("a",), "batch_size": BATCH.most + 1}, "--batch-size must be at most 1,000,000,"),
        (
            {"images": Path("d"), "reference": "r", "batch_size": BATCH.most + 1},
            "--batch-size must be at most 1,000,000,",
        ),
        ({"students": ("a",), "steps": (1, EVALUATIONS.most + 1)}, "--steps must be at most 1,000,"),
        ({"students": ("a",), "teacher_steps": (TEACHER_STEPS.most + 1,)}, "--teacher-steps must be at most 10,000,"),
        ({"students": ("a",), "fine_steps": TEACHER_STEPS.most + 1}, "--fine-steps must be at most 10,000,"),
        ({"students": ("a",), "substeps": SUBSTEPS.most + 1}, "--substeps must be at most 100,000,"),
        *[
            ({"images": Path("d"), "reference": "r", "metrics": (name,)}, f"--metrics {name} needs a student")
            for name in needing(STUDENT)
        ],
    ],
)
def test_what_does_not_go_together_is_said(given: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        request(**given).check()


def test_a_fault_is_said_once() -> None:
    with pytest.raises(UsageError) as caught:
        request(students=("a",), clip="c").check()
    assert caught.value.message.count("--clip is of the metric clip") == 1


def test_all_faults_come_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        request(images=Path("d"), students=("a",), metrics=("speed",)).check()
    message = caught.value.message
    assert "name no student" in message and "--reference DIR" in message and "--metrics speed" in message


def test_what_goes_together_is_taken() -> None:
    request(students=("a", "b")).check()
    request(images=Path("d"), reference="r", protocol="quick", num_images=5).check()
    largest = {
        "batch_size": BATCH.most,
        "steps": (1, EVALUATIONS.most),
        "fine_steps": TEACHER_STEPS.most,
        "substeps": SUBSTEPS.most,
    }
    request(students=("a",), num_images=MEASURED.most, **largest).check()
    assert request(images=Path("d"), protocol="quick").measures == ("fid",)
    assert not request(students=("a",)).asks("fid") and request(students=("a",), metrics=("fid",)).asks("fid")
