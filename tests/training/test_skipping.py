"""Steps whose gradients are not finite: skipped, counted and said; ten in a row end the run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection

import pytest
import torch
from run_rows import course_of, rows_of
from safetensors.torch import load_file

from piflow_cli.training import loop
from piflow_cli.training.loop import LONGEST_STREAK


@pytest.fixture
def spoil(monkeypatch) -> Callable[[Collection[int], float], None]:
    """Makes the loss of chosen iterations infinite or NaN; the tiny teacher's step asks for one loss."""
    whole = loop.train_step
    losses = loop.data_dependent_loss
    now = 0

    def spoil_(iterations: Collection[int], factor: float) -> None:
        def step(session) -> None:
            nonlocal now
            now = session.iteration + 1
            whole(session)

        monkeypatch.setattr("piflow_cli.training.run.train_step", step)
        monkeypatch.setattr(
            loop, "data_dependent_loss", lambda *given: losses(*given) * (factor if now in iterations else 1.0)
        )

    return spoil_


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_step_that_is_not_finite_leaves_the_weights_alone_and_is_said(
    cli, tiny_teacher, tmp_path, spoil, factor
) -> None:
    arguments = [
        "distill",
        "--teacher",
        str(tiny_teacher),
        "--set",
        "output.checkpoint_every=1",
        "--set",
        "output.keep_checkpoints=9",
    ]
    spoil({4}, factor)
    outcome = cli(*arguments, "--output", str(tmp_path / "out"), "--json")
    assert outcome.code == 0 and json.loads(outcome.out)["skipped"] == 1
    assert "gradients were not finite: iterations 4 (1 so far)" in outcome.err
    rows = rows_of(tmp_path / "out")
    assert [row["skipped"] for row in rows] == [False, False, False, True, False, False]
    assert rows[3]["loss"] is None and rows[3]["gradient_norm"] is None
    # No checkpoint amid such steps; the next one has gone on from the weights before.
    saved = {
        number: tmp_path / "out" / "checkpoints" / f"{number:07d}" / "training.safetensors" for number in range(1, 7)
    }
    assert [number for number, path in saved.items() if path.is_file()] == [1, 2, 3, 5, 6]
    after = load_file(saved[6])
    assert all(value.isfinite().all() for value in after.values())
    # AdamW has counted five steps of six.
    assert {int(value) for name, value in after.items() if name.endswith(".step")} == {5}


def test_a_skipped_step_changes_nothing_but_the_average(cli, tiny_teacher, tmp_path, spoil) -> None:
    arguments = ["distill", "--teacher", str(tiny_teacher), "--quiet"]
    assert cli(*arguments, "--output", str(tmp_path / "three"), "--iterations", "3").code == 0
    spoil({4}, math.nan)
    assert cli(*arguments, "--output", str(tmp_path / "four"), "--iterations", "4").code == 0
    places = (("three", "0000003"), ("four", "0000004"))
    three, four = (
        load_file(tmp_path / name / "checkpoints" / number / "training.safetensors") for name, number in places
    )
    assert all(torch.equal(value, four[name]) for name, value in three.items() if not name.startswith("average."))


def test_ten_steps_in_a_row_end_the_run_with_the_last_good_checkpoint(cli, tiny_teacher, tmp_path, spoil) -> None:
    folder = tmp_path / "out"
    spoil(range(4, 99), math.nan)
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(folder), "--iterations", "50")
    assert outcome.code == 1
    assert f"{LONGEST_STREAK} steps in a row had gradients that are not finite, the last is iteration 13" in outcome.err
    assert (
        f"the last good checkpoint is {folder / 'checkpoints' / '0000002'}" in outcome.err
        and "--learning-rate" in outcome.err
    )
    assert [row["iteration"] for row in rows_of(folder) if row["skipped"]] == list(range(4, 14))
    checkpoint = load_file(folder / "checkpoints" / "0000002" / "training.safetensors")
    assert all(value.isfinite().all() for value in checkpoint.values())


def test_a_resumed_run_counts_those_in_a_row_before_it(cli, tiny_teacher, tmp_path, spoil) -> None:
    spoil(range(4, 99), math.nan)
    arguments = ["distill", "--teacher", str(tiny_teacher), "--output", str(tmp_path / "out"), "--iterations"]
    assert cli(*arguments, "9").code == 0
    outcome = cli(*arguments, "50")
    assert outcome.code == 1
    assert f"{LONGEST_STREAK} steps in a row had gradients that are not finite, the last is iteration 13" in outcome.err


def test_nine_in_a_row_do_not(cli, tiny_teacher, tmp_path, spoil) -> None:
    spoil({*range(2, 11), *range(12, 21)}, math.nan)
    outcome = cli(
        "distill", "--teacher", str(tiny_teacher), "--output", str(tmp_path / "out"), "--iterations", "22", "--json"
    )
    assert outcome.code == 0 and json.loads(outcome.out)["skipped"] == 18


def test_a_resumed_run_skips_and_counts_as_one_that_was_never_stopped(cli, tiny_teacher, tmp_path, spoil) -> None:
    spoil({2, 5}, math.nan)
    arguments = ["distill", "--teacher", str(tiny_teacher), "--json", "--output"]
    assert json.loads(cli(*arguments, str(tmp_path / "whole")).out)["skipped"] == 2
    assert cli(*arguments, str(tmp_path / "parts"), "--iterations", "3").code == 0
    assert json.loads(cli(*arguments, str(tmp_path / "parts")).out)["skipped"] == 2
    assert course_of(tmp_path / "whole") == course_of(tmp_path / "parts")
    whole, parts = (
        load_file(tmp_path / name / "checkpoints" / "0000006" / "training.safetensors") for name in ("whole", "parts")
    )
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_a_network_that_answers_with_nan_is_a_step_that_is_not_finite(cli, tiny_teacher, tmp_path, monkeypatch) -> None:
    velocity = loop.teacher_velocity
    monkeypatch.setattr(loop, "teacher_velocity", lambda *given: velocity(*given) * math.nan)
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(tmp_path / "out"), "--iterations", "50")
    assert outcome.code == 1 and "the last is iteration 10; there is no checkpoint yet" in outcome.err


@pytest.mark.parametrize("policy", ["gm", "dx", "momentum"])
def test_a_student_that_explodes_ends_the_run(cli, tiny_teacher, tmp_path, monkeypatch, policy) -> None:
    # The largest rate that a preset may have is far too small for it.
    monkeypatch.setattr("piflow_cli.training.loop.learning_rate", lambda iteration, settings, stretches: 1e30)
    arguments = ["--set", "optimisation.warmup=0", "--iterations", "30", "--policy", policy]
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(tmp_path / "out"), *arguments)
    assert outcome.code == 1 and "report it" not in outcome.err
    assert "there is no checkpoint yet" in outcome.err and "--learning-rate" in outcome.err


def test_weights_that_are_not_finite_are_never_saved(cli, tiny_teacher, tmp_path, monkeypatch) -> None:
    whole = loop.train_step

    def step(session) -> None:
        whole(session)
        if session.iteration == 4:
            next(session.student.model.parameters()).data.fill_(math.inf)

    monkeypatch.setattr("piflow_cli.training.run.train_step", step)
    folder = tmp_path / "out"
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(folder))
    assert outcome.code == 1 and "of iteration 4 is not finite, and is not saved" in outcome.err
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["0000002"]
