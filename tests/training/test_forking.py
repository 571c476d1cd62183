"""A run that begins with the weights of another, and what is refused of it; a run that goes on with other versions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from interruptions import interrupted_at
from safetensors.torch import load_file

from piflow_cli.students.run_versions import VERSIONS_NAME, versions_here
from piflow_cli.students.runs import RunFolder
from piflow_cli.training import run

TENSORS = "training.safetensors"


@pytest.fixture
def command(tiny_teacher: Path, tmp_path: Path) -> list[str]:
    quiet = ["--device", "cpu", "--quiet", "--set", "output.preview_every=0"]
    return ["distill", "--teacher", str(tiny_teacher), *quiet, "--nfe", "2", "--output"]


def at(folder: Path, iteration: int) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"{iteration:07d}" / TENSORS)


def test_it_begins_with_student_and_average_and_a_fresh_optimiser(
    cli, command, tiny_run, tmp_path, monkeypatch
) -> None:
    """Under another learning rate, which a run that goes on may not have."""
    new = [*command, str(tmp_path / "new"), "--fork", str(tiny_run), "--learning-rate", "1e-3", "--iterations", "2"]
    monkeypatch.setattr(run, "train_step", interrupted_at(1))
    assert cli(*new).code == 130
    began, source = at(tmp_path / "new", 0), at(tiny_run, 2)
    weights = {name: value for name, value in source.items() if not name.startswith("optimizer.")}
    assert began.keys() == weights.keys() and all(torch.equal(value, began[name]) for name, value in weights.items())
    assert json.loads((tmp_path / "new" / "fork.json").read_text()) == {"run": str(tiny_run), "iteration": 2}
    monkeypatch.undo()
    # The same command goes on, and a run that does not name the other one too: it depends on it no more.
    assert cli(*new).code == 0
    end = at(tmp_path / "new", 2)
    assert any(not torch.equal(value, end[name]) for name, value in weights.items())
    # The average began anew: until the end of the warm-up, of two steps here, it is a copy.
    average = {name: value for name, value in end.items() if name.startswith("average.")}
    assert all(torch.equal(value, end[f"student.{name.removeprefix('average.')}"]) for name, value in average.items())
    assert cli(*command, str(tmp_path / "new"), "--learning-rate", "1e-3", "--iterations", "3").code == 0
    rows = (tmp_path / "new" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["iteration"] for row in rows] == [1, 2, 3]


def test_a_start_that_was_killed_before_its_first_checkpoint_forks_again(cli, command, tiny_run, tmp_path) -> None:
    new = [*command, str(tmp_path / "new"), "--iterations", "1"]
    assert cli(*new, "--fork", str(tiny_run)).code == 0
    whole = at(tmp_path / "new", 1)
    for left in ("checkpoints", "adapter"):
        shutil.rmtree(tmp_path / "new" / left)
    assert cli(*new).code == 0
    assert all(torch.equal(value, whole[name]) for name, value in at(tmp_path / "new", 1).items())


@pytest.mark.parametrize("more", [[], ["--budget", "1h"]])
def test_a_start_that_was_killed_at_any_file_of_its_beginning_is_made_again(
    cli, command, tiny_run, tmp_path, monkeypatch, more
) -> None:
    """What it had written belongs to no run yet, and the next start does not begin with the weights of another."""

    def killed(*given) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "new"
    for name in ("write_settings", "write_data"):
        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, name, killed)
            assert cli(*command, str(folder), "--fork", str(tiny_run), *more).code == 130
        assert (folder / "fork.json").is_file() and (folder / "run.yaml").is_file() is (name == "write_data")
        with monkeypatch.context() as patch:
            patch.setattr(run, "train_step", interrupted_at(1))
            assert cli(*command, str(folder), "--fork", str(tiny_run), *more).code == 130
        assert all(torch.equal(value, at(tiny_run, 2)[key]) for key, value in at(folder, 0).items())
        shutil.rmtree(folder)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_settings", killed)
        cli(*command, str(folder), "--fork", str(tiny_run), *more)
    assert cli(*command, str(folder), "--iterations", "1").code == 0
    assert not (folder / "fork.json").exists() and not (folder / "checkpoints" / "0000000").exists()


def test_a_fork_of_a_damaged_run_says_what_is_damaged(cli, command, tiny_run, tmp_path) -> None:
    damaged = Path(shutil.copytree(tiny_run, tmp_path / "damaged"))
    assert cli(*command, str(damaged), "--iterations", "3").code == 0
    shutil.rmtree(damaged / "checkpoints" / "0000001", ignore_errors=True)
    loud = [word for word in command if word != "--quiet"] + [str(tmp_path / "new"), "--iterations", "1"]
    (damaged / "checkpoints" / "0000003" / TENSORS).write_bytes(b"tensors")
    told = cli(*loud, "--fork", str(damaged), "--dry-run")
    older = damaged / "checkpoints" / "0000002"
    assert told.code == 0 and f"0000003 is damaged: the checksum of {TENSORS} does not match; {older} is" in told.err
    (older / TENSORS).unlink()
    refused = cli(*loud, "--fork", str(damaged))
    assert refused.code == 2 and f"0000003 (the checksum of {TENSORS} does not match)" in refused.err
    assert f"0000002 ({TENSORS} is missing)" in refused.err and not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"iteration": 2}', '{"run": 3}', "\udcff"])
def test_a_damaged_record_of_a_fork_is_named(cli, command, tiny_run, tmp_path, content) -> None:
    folder = tmp_path / "new"
    new = [word for word in command if word != "--quiet"] + [str(folder), "--iterations", "1"]
    assert cli(*new, "--fork", str(tiny_run)).code == 0
    (folder / "fork.json").write_bytes(content.encode(errors="surrogateescape"))
    for more in ([], ["--fork", str(tiny_run)], ["--dry-run"]):
        outcome = cli(*new, *more)
        assert outcome.code == 2 and f"{folder / 'fork.json'} is damaged" in outcome.err, outcome.err
        assert "take the file away, and the run goes on from its own checkpoints" in outcome.err
    # Without a checkpoint of its own it depends on the record.
    shutil.move(folder / "checkpoints", tmp_path / "kept")
    outcome = cli(*new)
    assert outcome.code == 2 and "begin it once more: --no-resume --fork RUN" in outcome.err
    assert cli(*new, "--no-resume", "--fork", str(tiny_run)).code == 0
    shutil.rmtree(folder)
    (tmp_path / "new.1").rename(folder)
    shutil.move(tmp_path / "kept", folder / "checkpoints")
    (folder / "fork.json").unlink()
    assert cli(*new).code == 0


def test_a_file_that_is_not_ours_is_no_leftover_of_a_start(cli, command, tmp_path) -> None:
    for name in ("budget.yaml", "fork.json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("{}")
        outcome = cli(*command, str(tmp_path / name), "--iterations", "1")
        assert outcome.code == 2 and "is not empty and holds no run" in outcome.err
        assert (tmp_path / name / name).read_text() == "{}"


def test_another_student_is_refused_with_what_differs(cli, command, tiny_run, tmp_path) -> None:
    outcome = cli(*command, str(tmp_path / "new"), "--fork", str(tiny_run), "--components", "4")
    assert (
        outcome.code == 2 and "is of another student: " in outcome.err and f"run.yaml --fork {tiny_run}" in outcome.err
    )
    assert " there and is " in outcome.err and not (tmp_path / "new").exists()


def test_what_cannot_be_forked_is_refused(cli, command, tiny_run, tmp_path) -> None:
    for place, folder, says in (
        (tmp_path / "nothing", tmp_path / "new", "is no run with a whole checkpoint"),
        (tiny_run, tiny_run, "is a run that did not begin with the weights of"),
    ):
        for more in ([], ["--dry-run"]):
            outcome = cli(*command, str(folder), "--fork", str(place), "--iterations", "2", *more)
            assert outcome.code == 2 and says in outcome.err, outcome.err
    assert not (tmp_path / "new").exists()


def test_a_changed_preset_is_refused_with_the_differences_and_the_way_to_fork(cli, command, tiny_run) -> None:
    outcome = cli(*command, str(tiny_run), "--learning-rate", "0.5", "--iterations", "2")
    assert outcome.code == 2 and "optimisation.learning_rate was " in outcome.err and "is 0.5" in outcome.err
    assert f"--fork {tiny_run} --output {tiny_run}-2" in outcome.err


def test_other_versions_are_said_once_and_written_down(cli, command, tiny_run, tmp_path) -> None:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    record = folder / VERSIONS_NAME
    assert json.loads(record.read_text()) == versions_here()
    record.write_text(json.dumps(versions_here() | {"torch": "2.6.0", "diffusers": None}))
    loud = [word for word in command if word != "--quiet"] + [str(folder), "--iterations", "2"]
    said = cli(*loud).err
    assert said.count("Warning: ") == 1 and "goes on with other versions" in said
    assert "torch was 2.6.0, is " in said and "diffusers was None, is " in said and "peft" not in said
    assert "Warning: " not in cli(*loud).err
    record.write_text("{")
    assert cli(*loud).code == 0 and json.loads(record.read_text()) == versions_here()


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_another_policy_of_equal_size_is_refused(cli, command, tiny_run, tmp_path, more) -> None:
    """Points and coefficients of a DX policy have the same names and shapes."""
    sized = ["--components", "4", "--iterations", "1"]
    points = tmp_path / "points"
    assert cli(*command, str(points), *sized, "--set", "policy.kind=dx").code == 0
    said = cli(*command, str(tmp_path / "new"), *sized, "--set", "policy.kind=dx-poly", "--fork", str(points), *more)
    assert said.code == 2 and "is of another student: policy.kind was dx, is dx-poly" in said.err
    assert f"run.yaml --fork {points}" in said.err and not (tmp_path / "new").exists()


def test_another_base_may_begin_with_the_weights_and_is_said(cli, command, tiny_teacher, tiny_run, tmp_path) -> None:
    """As a fine-tuned one may."""
    there = Path(yaml.safe_load(tiny_teacher.read_text())["teacher"]["base"])
    here = shutil.copytree(there, tmp_path / "tuned")
    loud = [word for word in command if word != "--quiet"] + [str(tmp_path / "new"), "--iterations", "1"]
    for more in (["--dry-run"], []):
        said = cli(*loud, "--base", str(here), "--fork", str(tiny_run), *more)
        assert said.code == 0 and said.err.count("Warning: ") == 1, said.err
        assert f"on another base: teacher.base was {there}, is {here}" in " ".join(said.err.split())
    # From here on the run depends on no other.
    assert "on another base" not in cli(*loud, "--base", str(here), "--fork", str(tiny_run)).err
