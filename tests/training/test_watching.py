"""What a run shows while it trains, and its answer to the first signal."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from interruptions import interrupted_at

from piflow_cli.console import Console
from piflow_cli.progress import JsonLines
from piflow_cli.training import loop, run, showing
from piflow_cli.training.metrics import SMOOTHING, Metrics

ANSWERS = {
    "SIGINT": "stopping after this step; again to stop now",
    "SIGTERM": "stopping after this step; again to stop now",
    "SIGUSR1": "stopping after this step",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_first_signal_is_answered_before_the_run_ends(cli, tiny_teacher, tmp_path, monkeypatch, name) -> None:
    monkeypatch.setattr(run, "train_step", interrupted_at(3, getattr(signal, name)))
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    lines = cli("distill", "--teacher", str(tiny_teacher), "--output", str(tmp_path / "out")).err.splitlines()
    [place] = [number for number, line in enumerate(lines) if line == ANSWERS[name]]
    assert any("topped at iteration 3 of 6" in line for line in lines[place + 1 :])
    assert signal.set_wakeup_fd(before) == before


def test_with_json_progress_is_lines_of_json_for_those_who_ask(cli, tiny_teacher, tmp_path) -> None:
    asked = ["distill", "--teacher", str(tiny_teacher), "--output", str(tmp_path / "out"), "--json", "--progress"]
    outcome = cli(*asked, "--set", "optimisation.device_batch_size=2")
    assert outcome.code == 0 and json.loads(outcome.out)["iterations"] == 6
    lines = [json.loads(line)["progress"] for line in outcome.err.splitlines()]
    last, rows = lines[-1], (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row)["loss"] for row in rows]
    assert (last["of"], last["done"], last["total"], last["seconds_left"]) == ("distilling", 6, 6, 0)
    assert last["loss"] == pytest.approx(sum(losses) / 6) and last["round"] == "4/4"
    assert last["evaluations"] == json.loads(rows[-1])["evaluations"]


@pytest.mark.parametrize(("seconds", "seen"), [(0.0, [0, 1, 2, 3, 4, 5]), (float("inf"), [0] * 6)])
def test_losses_are_read_by_the_clock(cli, tiny_teacher, tmp_path, monkeypatch, seconds, seen) -> None:
    """The lines of metrics.jsonl before each step."""
    file, found = tmp_path / "out" / "metrics.jsonl", []

    def step(session: loop.Session) -> None:
        found.append(len(file.read_text().splitlines()))
        loop.train_step(session)

    monkeypatch.setattr(showing, "SECONDS", seconds)
    monkeypatch.setattr(run, "train_step", step)
    settings = ["--set", "output.checkpoint_every=100", "--set", "output.preview_every=0"]
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(file.parent), "--quiet", *settings)
    assert outcome.code == 0 and found == seen and len(file.read_text().splitlines()) == 6


def test_the_loss_that_is_shown_is_the_mean_of_the_newest(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", 0)
    assert metrics.smoothed_loss is None
    for number in range(100):
        metrics.add({"iteration": number + 1, "loss": float(number)})
    assert metrics.smoothed_loss == sum(range(100 - SMOOTHING, 100)) / SMOOTHING
    metrics.add({"iteration": 101, "loss": float("nan")})
    assert metrics.smoothed_loss == sum(range(101 - SMOOTHING, 100)) / (SMOOTHING - 1)


def test_a_log_gets_a_line_where_a_tenth_of_the_time_has_gone_without_one(capsys) -> None:
    with Console().progress(total=5, description="distilling") as bar:
        clock = bar.start_t
        said = []
        for seconds in (5, 11, 15, 22, 1000, 1050, 1099, 1101, 1200, 1300):
            bar._time = lambda now=clock + seconds: now
            bar.tick()
            said.append(bool(capsys.readouterr().err))
    assert said == [False, True, False, True, True, False, False, False, True, False]


def test_lines_of_json_are_of_a_console_of_json(capsys) -> None:
    with Console(json=True, progress=True).progress(total=4, initial=2, description="sampling") as bar:
        assert isinstance(bar, JsonLines)
        bar.update()
    facts = json.loads(capsys.readouterr().err.splitlines()[-1])["progress"]
    assert (facts["of"], facts["done"], facts["total"]) == ("sampling", 3, 4)
    with Console(quiet=True, progress=True).progress(total=4, description="sampling") as bar:
        bar.update()
    assert capsys.readouterr().err.splitlines()[-1].startswith("sampling: 25% 1/4 [")
