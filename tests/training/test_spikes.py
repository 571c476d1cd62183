"""Spikes of the loss: what is one, and how a run tells of it."""

from __future__ import annotations

import json
import math

import pytest

from piflow_cli.training import loop, run
from piflow_cli.training.spikes import FEWEST, WINDOW, SpikeWatch


def seen(losses: list[float | None]) -> list[int]:
    watch = SpikeWatch()
    places = [place for place, loss in enumerate(losses) if watch.see(loss) is not None]
    assert watch.count == len(places)
    return places


def test_a_spike_is_more_than_five_medians_of_the_fifty_before_it() -> None:
    level = [1.0] * FEWEST
    assert seen([*level, 5.0]) == [] and seen([*level, 5.01]) == [FEWEST]
    assert seen([1.0] * (FEWEST - 1) + [100.0]) == []
    # A new level is no spike once half of the window is of it.
    up = [1.0] * WINDOW + [10.0] * WINDOW
    assert seen(up) == list(range(WINDOW, WINDOW + WINDOW // 2))
    assert seen([*level, None, math.nan, math.inf, 1.0]) == [] and seen([-1.0] * FEWEST + [3.0]) == []


def test_its_size_is_that_over_the_median() -> None:
    watch = SpikeWatch()
    for loss in range(1, 52):
        watch.see(float(loss))
    # The last fifty are 2 to 51.
    assert watch.see(265.0) == pytest.approx(10.0)


def test_a_run_says_it_counts_it_and_goes_on_as_it_was(cli, tiny_teacher, tmp_path, monkeypatch) -> None:
    arguments = ["distill", "--teacher", str(tiny_teacher), "--device", "cpu", "--iterations", "40", "--json"]
    arguments += ["--set", "output.preview_every=0", "--set", "output.checkpoint_every=30", "--output"]
    plain = cli(*arguments, str(tmp_path / "plain"))
    assert json.loads(plain.out)["spikes"] == 0 and plain.err == ""

    def step(session: loop.Session) -> None:
        loop.train_step(session)
        if session.iteration == 25:
            session.pending[-1]["losses"] = session.pending[-1]["losses"] * 1000

    monkeypatch.setattr(run, "train_step", step)
    outcome = cli(*arguments, str(tmp_path / "run"))
    [warning] = [json.loads(line)["warning"] for line in outcome.err.splitlines()]
    assert warning.startswith("a spike of the loss: iteration 25, ") and "times the median of the 50 before" in warning
    assert json.loads(outcome.out)["spikes"] == 1
    monkeypatch.undo()
    weights = "checkpoints/0000040/training.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (tmp_path / "plain" / weights).read_bytes()
    # A start that does no more than look counts the same.
    assert json.loads(cli(*arguments, str(tmp_path / "run")).out)["spikes"] == 1
