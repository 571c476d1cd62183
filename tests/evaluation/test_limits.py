"""Limits of numbers: an evaluation beyond one fails, with a line."""

from __future__ import annotations

import math

import pytest

from piflow_cli.errors import RunError, UsageError
from piflow_cli.evaluation.limits import NumberLimit, check_limits, hold, parse_limits


def row(value: float, metric: str = "fid", kind: str = "student", **more: object) -> dict:
    return {"model": "digits", "kind": kind, "nfe": 1, "metric": metric, "value": value, **more}


def test_limits_are_read_by_name_or_title() -> None:
    assert parse_limits(["fid=0.3", "patch FID = 2"], ["PSNR=20"]) == (
        NumberLimit("--fail-above", "fid", 0.3),
        NumberLimit("--fail-above", "patch-fid", 2.0),
        NumberLimit("--fail-below", "psnr", 20.0),
    )


@pytest.mark.parametrize(
    ("above", "below", "message", "hint"),
    [
        ("fidd=0.3", None, "no number 'fidd'", "type --fail-above fid=0.3"),
        ("fid", None, "'' is no number", "--fail-above fid=0.3"),
        ("fid=low", None, "'low' is no number", "--fail-above fid=0.3"),
        ("fid=nan", None, "'nan' is no number", "--fail-above fid=0.3"),
        ("psnr=20", None, "higher is better", "type --fail-below psnr=20"),
        (None, "fid=0.3", "lower is better", "type --fail-above fid=0.3"),
    ],
)
def test_what_is_no_limit_is_refused(above: str | None, below: str | None, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_limits([] if above is None else [above], [] if below is None else [below])
    assert hint in caught.value.hint


def test_a_limit_of_what_is_not_measured_is_refused_before_anything_is_made() -> None:
    limits = parse_limits(["mse=1"], ["precision=0.5"])
    check_limits(limits, ("pr", "alignment"))
    with pytest.raises(UsageError, match="mse=1: that is not measured") as caught:
        check_limits(limits, ("fid", "pr"))
    assert caught.value.hint == "add it: --metrics fid,pr,mse"


def test_students_keep_to_their_limits_and_teachers_need_not() -> None:
    limits = parse_limits(["fid=0.3"], ["precision=0.5"])
    fine = [row(0.3), row(9.0, kind="teacher"), row(0.5, "precision")]
    hold(limits, fine)
    with pytest.raises(RunError) as caught:
        hold(limits, [*fine, row(0.31, extractor="pixels"), row(0.4, "precision")])
    assert caught.value.exit_code == 1
    assert caught.value.message == (
        "fid by pixels of digits, 1 NFE is 0.31, above 0.3; precision of digits, 1 NFE is 0.4, below 0.5"
    )


def test_what_is_not_a_number_or_not_there_is_within_no_limit() -> None:
    limits = parse_limits(["fid=0.3"], [])
    for rows, said in (([row(math.nan)], "is nan, above"), ([], "fid was not measured"), ([row(1.0, "mse")], "not")):
        with pytest.raises(RunError, match=said):
            hold(limits, rows)
