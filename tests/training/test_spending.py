"""A run under a budget, from the command line, by a clock that only steps and loading move."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from interruptions import interrupted_at
from own_process import piflow
from run_rows import course_of
from safetensors.torch import load_file

from piflow_cli.training import loop, run, spending

LOADING, DRAWING = 10.0, 0.02


class Clock:
    """Seconds that pass while a run loads and in a step of sampling, and ``seconds`` by iteration and device batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds=lambda iteration, device_batch: 0.5) -> None:
        self.moment, self.measured, self.seconds = 1000.0, 0, seconds
        opened = run.open_session

        def open_session(*given):
            self.moment += LOADING
            return opened(*given)

        monkeypatch.setattr(run, "open_session", open_session)
        for module in (run, spending):
            monkeypatch.setattr(module, "now", lambda: self.moment)
        monkeypatch.setattr("piflow_cli.commands.distill.time", SimpleNamespace(monotonic=lambda: self.moment))
        drawn, compared = spending.sample_teacher, run.save_comparison

        def sample_teacher(*given):
            self.moment += DRAWING
            return drawn(*given)

        def save_comparison(student, teacher, *given):
            # A step, as many as the family has for its best, and those of the student.
            self.moment += (1 + student.family.beside_steps + student.facts.nfe) * DRAWING
            compared(student, teacher, *given)

        monkeypatch.setattr(spending, "sample_teacher", sample_teacher)
        monkeypatch.setattr(run, "save_comparison", save_comparison)
        monkeypatch.setattr(run, "train_step", self.step)
        monkeypatch.setattr(spending, "train_step", self.measure)

    def step(self, session: loop.Session) -> None:
        loop.train_step(session)
        batches = session.batches
        self.moment += batches.accumulation * self.seconds(session.iteration, batches.device_batch)

    def stops_at(self, iteration: int) -> Callable[[loop.Session], None]:
        """A step of a run that Ctrl-C ends."""
        stops = interrupted_at(iteration)

        def step(session: loop.Session) -> None:
            stops(session)
            self.moment += self.seconds(session.iteration, session.batches.device_batch)

        return step

    def measure(self, session: loop.Session) -> None:
        self.measured += 1
        self.step(session)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "diffusion_pytorch_model.safetensors")


def settings(folder: Path) -> dict:
    return yaml.safe_load((folder / "run.yaml").read_text())["optimisation"]


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def told(tiny_teacher: Path, folder: Path, *more: str) -> list[str]:
    few = ["--set", "output.preview_every=0", "--set", "output.checkpoint_every=25"]
    return ["distill", "--teacher", str(tiny_teacher), "--output", str(folder), *few, *more]


def test_a_run_ends_in_time_and_is_the_run_of_the_numbers_it_has_chosen(cli, tiny_teacher, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    outcome = cli(*told(tiny_teacher, tmp_path / "timed", "--budget", "100s"))
    assert outcome.code == 0, outcome.err
    assert 90 <= clock.moment - 1000 <= 100
    chosen = settings(tmp_path / "timed")
    # Loading and five measured steps have gone, and something is kept for the end.
    assert 150 < chosen["iterations"] <= (100 - LOADING - 5 * 0.5) / 0.5
    assert (chosen["batch_size"], chosen["warmup"], chosen["schedule"]) == (8, 2, "cosine")
    said = f"budget of 100s: {chosen['iterations']} iterations of 8 at 0.5 s, warm-up 2, cosine; 13 s have gone"
    assert said in outcome.err and "in place of" not in outcome.err
    monkeypatch.undo()
    same = ["--iterations", str(chosen["iterations"]), "--set", "optimisation.schedule=cosine"]
    assert cli(*told(tiny_teacher, tmp_path / "plain", *same)).code == 0
    one, other = weights(tmp_path / "timed"), weights(tmp_path / "plain")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert course_of(tmp_path / "timed") == course_of(tmp_path / "plain")


def test_a_machine_that_slows_down_shortens_the_run_and_its_cosine(cli, tiny_teacher, tmp_path, monkeypatch):
    clock = Clock(monkeypatch, lambda iteration, device_batch: 0.5 if iteration < 60 else 1.5)
    outcome = cli(*told(tiny_teacher, tmp_path, "--budget", "100s"))
    assert outcome.code == 0 and 90 <= clock.moment - 1000 <= 110
    changes = re.findall(r"budget: (\d+) iterations in place of (\d+)", outcome.err)
    assert changes and int(changes[-1][0]) == settings(tmp_path)["iterations"] == len(rows(tmp_path)) < 110
    rates = [row["learning_rate"] for row in rows(tmp_path)]
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] < 0.01 * max(rates)
    # From one step to the next the rate jumps nowhere: a cosine of the last stretch alone would be steepest.
    assert max(a - b for a, b in pairwise(rates[2:])) < math.pi / 2 * max(rates) / (len(rates) - 60)


def test_a_machine_that_gets_quicker_lengthens_it(cli, tiny_teacher, tmp_path, monkeypatch):
    clock = Clock(monkeypatch, lambda iteration, device_batch: 0.5 if iteration < 60 else 0.25)
    assert cli(*told(tiny_teacher, tmp_path, "--budget", "100s")).code == 0
    assert 90 <= clock.moment - 1000 <= 100 and settings(tmp_path)["iterations"] > 200


@pytest.mark.parametrize(("since", "seconds"), [(0, 0.5), (40, 0.7), (102, 5.0)])
def test_a_resumed_run_keeps_its_plan_and_spends_what_is_left(cli, tiny_teacher, tmp_path, monkeypatch, since, seconds):
    def pace(iteration: int, device_batch: int) -> float:
        return seconds if iteration >= since else 0.5

    clock = Clock(monkeypatch, pace)
    with monkeypatch.context() as patch:
        patch.setattr(run, "train_step", clock.stops_at(101))
        stopped = cli(*told(tiny_teacher, tmp_path, "--budget", "100s"))
    assert stopped.code == 130, stopped.err
    before, planned, measured = clock.moment - 1000, settings(tmp_path), clock.measured
    spent = yaml.safe_load((tmp_path / "budget.yaml").read_text())["spent"]
    assert spent == pytest.approx(before)
    outcome = cli(*told(tiny_teacher, tmp_path, "--budget", "100s"))
    assert outcome.code == 0 and clock.measured == measured and "budget of" not in outcome.err
    assert 90 <= clock.moment - 1000 <= 110
    after = settings(tmp_path)
    assert [after[key] for key in ("batch_size", "warmup", "schedule")] == [
        planned[key] for key in ("batch_size", "warmup", "schedule")
    ]
    # Loading once more takes time that the plan did not know of.
    assert after["iterations"] == len(rows(tmp_path)) < planned["iterations"]


def test_the_settings_of_a_run_go_on_with_it_too(cli, tiny_teacher, tmp_path, monkeypatch):
    Clock(monkeypatch)
    assert cli(*told(tiny_teacher, tmp_path, "--budget", "30s")).code == 0
    before = weights(tmp_path)
    again = cli("distill", "--teacher", str(tmp_path / "run.yaml"), "--output", str(tmp_path))
    assert again.code == 0 and all(torch.equal(value, before[name]) for name, value in weights(tmp_path).items())
    other = cli(*told(tiny_teacher, tmp_path, "--budget", "2m"))
    assert other.code == 2 and "optimisation.budget was 30s, is 2m" in other.err
    without = cli(*told(tiny_teacher, tmp_path))
    assert without.code == 2 and "optimisation.budget was 30s, is None" in without.err
    # What a budget decides differs too, and follows from it.
    assert "iterations was" not in other.err + without.err


def test_what_the_budget_has_decided_is_not_asked_for_again(cli, tiny_teacher, tmp_path, monkeypatch):
    """It would be ignored: the plan of the first start holds."""
    Clock(monkeypatch, lambda iteration, device_batch: 0.5 * device_batch)
    assert cli(*told(tiny_teacher, tmp_path, "--budget", "70s")).code == 0
    assert settings(tmp_path)["batch_size"] == 4
    again = told(tiny_teacher, tmp_path, "--budget", "70s")
    for more, says in (
        (["--batch-size", "16"], "optimisation.batch_size was 8, is 16"),
        (["--set", "optimisation.warmup=5"], "optimisation.warmup was 2, is 5"),
        (["--set", "optimisation.device_batch_size=1"], "optimisation.device_batch_size was None, is 1"),
    ):
        for plan in ([], ["--dry-run"]):
            outcome = cli(*again, *more, *plan)
            assert outcome.code == 2 and f"has decided that already: {says}\n" in outcome.err, outcome.err
    # What was asked first, what was planned, and a new start.
    assert all(cli(*again, *more).code == 0 for more in (["--batch-size", "8"], ["--batch-size", "4"]))
    assert cli(*again, "--batch-size", "2", "--no-resume").code == 0


def test_a_batch_is_made_smaller_where_steps_are_few(cli, tiny_teacher, tmp_path, monkeypatch):
    clock = Clock(monkeypatch, lambda iteration, device_batch: 0.5 * device_batch)
    outcome = cli(*told(tiny_teacher, tmp_path, "--budget", "70s"))
    assert outcome.code == 0 and "iterations of 4 in place of 8, for more steps, at 2 s" in outcome.err
    assert settings(tmp_path)["batch_size"] == 4 and 63 <= clock.moment - 1000 <= 70
    assert rows(tmp_path)[-1]["evaluations"] == len(rows(tmp_path)) * 4 * 5


def test_a_batch_stays_so_large_that_distances_have_samples_to_compare(cli, tiny_teacher, tmp_path, monkeypatch):
    Clock(monkeypatch, lambda iteration, device_batch: 3.0 * device_batch)
    few = ["--batch-size", "4", "--set", "imitation.energy=0.1"]
    outcome = cli(*told(tiny_teacher, tmp_path, "--budget", "120s", *few))
    assert outcome.code == 0, outcome.err
    assert "iterations of 2 in place of 4, for more steps, at 6 s" in outcome.err


def test_a_budget_too_small_for_a_warm_up_is_refused_with_the_least_that_makes_sense(
    cli, tiny_teacher, tmp_path, monkeypatch
):
    clock = Clock(monkeypatch, lambda iteration, device_batch: 3.0)
    outcome = cli(*told(tiny_teacher, tmp_path / "none", "--budget", "30s"))
    assert outcome.code == 2 and "--budget 30s: too small for a warm-up of 2 iterations" in outcome.err
    assert not (tmp_path / "none").exists()
    [least] = re.findall("give it at least --budget ([0-9dhms]+)", outcome.err)
    clock.moment = 1000.0
    assert cli(*told(tiny_teacher, tmp_path / "least", "--budget", least)).code == 0
    assert settings(tmp_path / "least")["iterations"] >= 2


def test_a_budget_that_has_gone_before_anything_is_loaded_is_refused_at_once(cli, tiny_teacher, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(
        run, "describe", lambda *given: setattr(clock, "moment", clock.moment + 7) or {"verdict": "fits"}
    )
    outcome = cli(*told(tiny_teacher, tmp_path / "none", "--budget", "6s"))
    assert outcome.code == 2 and "--budget 6s: 7.0 s have gone, and nothing is loaded yet" in outcome.err
    assert clock.measured == 0 and not (tmp_path / "none").exists()


def test_status_shows_what_is_spent(cli, tiny_teacher, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    assert cli(*told(tiny_teacher, tmp_path, "--budget", "30s")).code == 0
    record = json.loads(cli("status", str(tmp_path), "--json").out)
    assert (record["budget"], record["seconds_spent"]) == ("30s", pytest.approx(clock.moment - 1000))
    assert record["evaluations"] == record["iteration"] * 8 * 5
    said = cli("status", str(tmp_path)).out
    assert f"spent       {record['evaluations']:,} network evaluations; at the last checkpoint" in said
    assert "of a budget of 30s" in said


def test_a_damaged_record_of_what_is_spent_is_named(cli, tiny_teacher, tmp_path, monkeypatch):
    Clock(monkeypatch)
    assert cli(*told(tiny_teacher, tmp_path, "--budget", "30s")).code == 0
    record = tmp_path / "budget.yaml"
    record.write_text(record.read_text().replace("spent: ", "spent: 1"))
    outcome = cli(*told(tiny_teacher, tmp_path, "--budget", "30s"))
    assert outcome.code == 2 and "budget.yaml is damaged" in outcome.err


def test_a_run_whose_record_was_taken_away_has_spent_nothing_and_goes_on_to_its_end(
    cli, tiny_teacher, tmp_path, monkeypatch
):
    clock = Clock(monkeypatch, lambda iteration, device_batch: 2.0)
    command = told(tiny_teacher, tmp_path, "--budget", "60s")
    with monkeypatch.context() as patch:
        patch.setattr(run, "train_step", clock.stops_at(9))
        assert cli(*command).code == 130
    planned = settings(tmp_path)["iterations"]
    (tmp_path / "budget.yaml").unlink()
    clock.moment = 1000.0
    outcome = cli(*command)
    assert outcome.code == 0 and f"iterations in place of {planned}, since one takes 2 s" in outcome.err, outcome.err
    assert planned < settings(tmp_path)["iterations"] == len(rows(tmp_path))
    assert 54 <= clock.moment - 1000 <= 60
    rates = [row["learning_rate"] for row in rows(tmp_path)]
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] < 0.01 * max(rates)


def test_a_plan_counts_network_evaluations(cli, tiny_teacher):
    plan = json.loads(cli("distill", "--teacher", str(tiny_teacher), "--dry-run", "--json").out)
    assert plan["optimisation"]["network evaluations"] == "240 in all, 40 an iteration"
    timed = cli("distill", "--teacher", str(tiny_teacher), "--budget", "2h", "--dry-run", "--json")
    assert json.loads(timed.out)["optimisation"]["budget"].startswith("2h, which sets iterations")


@pytest.mark.long
def test_two_processes_spend_a_budget_of_gpu_hours_together_and_one_goes_on(tiny_teacher, tmp_path):
    """In real time, of which nothing is asserted but that the run has ended, on one length."""
    command = piflow(*told(tiny_teacher, tmp_path / "out", "--device", "cpu", "--quiet"))
    command += ["--budget", "0.05gpu-h"]
    done = subprocess.run([*command, "--num-processes", "2"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    chosen = settings(tmp_path / "out")
    assert chosen["iterations"] == len(rows(tmp_path / "out")) and chosen["schedule"] == "cosine"
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert settings(tmp_path / "out") == chosen
