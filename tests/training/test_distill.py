"""`piflow distill` from end to end on a tiny random teacher: what it leaves, resuming, and what stops it."""

import errno
import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from interruptions import interrupted_at
from PIL import Image
from run_rows import course_of
from safetensors import SafetensorError
from safetensors.torch import load_file

from piflow_cli.reports.grids import comparison_grid
from piflow_cli.students.open import open_student
from piflow_cli.system.files import TRIAL
from piflow_cli.system.locking import FolderLock
from piflow_cli.training import machine, opening, previews, run

COLUMNS = previews.COLUMNS

REGIMES = {
    "gm": [],
    "gm, data-free, 2 NFE, mixing": ["--data-free", "--nfe", "2", "--set", "imitation.mixing_iterations=4"],
    "gm, window": ["--set", "imitation.window=3"],
    "gm, accumulation": ["--set", "optimisation.device_batch_size=2"],
    "gm, guidance": ["--set", "teacher.guidance=2.0", "--set", "teacher.guidance_interval=[0.1, 0.9]"],
    "gm, 2 NFE, energy": ["--nfe", "2", "--set", "imitation.energy=2"],
    "dx": ["--policy", "dx", "--components", "4", "--set", "imitation.window=3"],
    "dx-poly, 2 NFE": ["--policy", "dx-poly", "--nfe", "2"],
    "momentum": ["--policy", "momentum", "--set", "imitation.window=3"],
}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "diffusion_pytorch_model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, averages, optimiser and metrics agree bit for bit."""
    for name in ("adapter/diffusion_pytorch_model.safetensors", "checkpoints/0000006/training.safetensors"):
        left, right = load_file(one / name), load_file(other / name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    assert course_of(one) == course_of(other)


@pytest.mark.parametrize("regime", REGIMES)
def test_a_run_can_be_stopped_and_resumed_bit_for_bit(cli, tiny_teacher, tmp_path, monkeypatch, regime) -> None:
    arguments = ["distill", "--teacher", str(tiny_teacher), "--quiet", *REGIMES[regime]]
    whole = cli(*arguments, "--output", str(tmp_path / "whole"))
    assert (whole.code, whole.err) == (0, "")

    monkeypatch.setattr(run, "train_step", interrupted_at(3))
    stopped = cli(*arguments, "--output", str(tmp_path / "parts"))
    assert stopped.code == 130
    assert "stopped at iteration 3 of 6" in stopped.err
    monkeypatch.undo()
    sample = ["sample", str(tmp_path / "parts"), "--seeds", "0", "--output", str(tmp_path / "samples"), "--overwrite"]
    assert "the run is not finished: the student is that of iteration 3 of 6" in cli(*sample).err
    assert cli(*arguments, "--output", str(tmp_path / "parts")).code == 0
    assert "not finished" not in cli(*sample).err
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_leaves_student_pictures_and_metrics(cli, tiny_teacher, tmp_path, monkeypatch) -> None:
    # As many pictures a row as users see.
    monkeypatch.setattr(previews, "COLUMNS", COLUMNS)
    folder = tmp_path / "out"
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(folder), "--json")
    result = json.loads(outcome.out)
    assert result["iterations"] == 6 and result["output"] == str(folder)
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["0000004", "0000006"]
    assert [path.name for path in sorted((folder / "previews").iterdir())] == ["0000003.png", "0000006.png"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["learning_rate"] for row in rows] == [5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3]
    blank = [Image.new("RGB", (8, 8))] * COLUMNS
    with Image.open(folder / "previews" / "0000003.png") as picture:
        assert picture.size == comparison_grid({"seeds 0 to 9": blank, "seeds 10 to 19": blank}).size
    for name in ("samples.png", "loss.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100 and len(picture.convert("L").getcolors()) > 5
    facts = open_student(folder / "adapter").facts
    assert (facts.teacher, facts.nfe, facts.iterations) == ("tiny", 1, 6)


def test_the_saved_student_is_the_average(cli, tiny_teacher, tmp_path) -> None:
    assert cli("distill", "--teacher", str(tiny_teacher), "--output", str(tmp_path / "out"), "--quiet").code == 0
    saved = open_student(tmp_path / "out" / "adapter").model.state_dict()
    checkpoint = load_file(tmp_path / "out" / "checkpoints" / "0000006" / "training.safetensors")
    assert all(torch.equal(value, checkpoint[f"average.{name}"]) for name, value in saved.items())
    assert any(not torch.equal(value, checkpoint[f"student.{name}"]) for name, value in saved.items())


def test_a_finished_run_may_be_made_longer(cli, tiny_teacher, tmp_path) -> None:
    arguments = ["distill", "--teacher", str(tiny_teacher), "--quiet"]
    assert cli(*arguments, "--output", str(tmp_path / "whole")).code == 0
    assert cli(*arguments, "--output", str(tmp_path / "parts"), "--iterations", "4").code == 0
    assert cli(*arguments, "--output", str(tmp_path / "parts"), "--iterations", "6").code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_folder_of_the_shell_takes_a_run_and_a_new_one_after_it(cli, tiny_teacher, tmp_path, monkeypatch) -> None:
    """It has a name only in full: without it nothing could be named beside it, or moved there."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    arguments = ["distill", "--teacher", str(tiny_teacher), "--output", ".", "--iterations", "1"]
    monkeypatch.chdir(tmp_path / "other")
    outcome = cli(*arguments)
    assert outcome.code == 2 and f"name another folder: --output {tmp_path}/other-2" in outcome.err
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    assert cli(*arguments, "--quiet").code == 0
    before = contents(tmp_path / "out")
    assert cli(*arguments, "--quiet", "--no-resume", "--seed", "1").code == 0
    assert contents(tmp_path / "out.1") == before != contents(tmp_path / "out")


def test_a_run_on_a_cosine_keeps_its_length(cli, tiny_teacher, tmp_path) -> None:
    """The rate of every iteration depends on the last one: a longer run is another run from its first step on."""
    arguments = [
        "distill",
        "--teacher",
        str(tiny_teacher),
        "--set",
        "optimisation.schedule=cosine",
        "--output",
        str(tmp_path / "out"),
    ]
    assert cli(*arguments, "--quiet", "--iterations", "4").code == 0
    before = contents(tmp_path / "out")
    for other in ("6", "3"):
        outcome = cli(*arguments, "--iterations", other)
        assert outcome.code == 2 and "is a run of 4 iterations on a cosine" in outcome.err
        assert all(text in outcome.err for text in ("--iterations 4", f"--output {tmp_path}/out-2,", "--no-resume"))
        assert contents(tmp_path / "out") == before
    assert cli(*arguments, "--quiet", "--iterations", "4").code == 0
    assert cli(*arguments, "--quiet", "--iterations", "6", "--no-resume").code == 0
    both = cli(*arguments, "--iterations", "8", "--seed", "1")
    assert both.code == 2 and "optimisation.iterations was 6, is 8" in both.err and "seed was 0, is 1" in both.err


def test_other_folders_among_checkpoints_are_left_alone(cli, tiny_teacher, finished) -> None:
    """A copy that a person keeps, and a damaged one moved aside."""
    checkpoints = finished / "checkpoints"
    shutil.copytree(checkpoints / "0000004", checkpoints / "0000004-good")
    (checkpoints / "0000004").rename(checkpoints / "0000009.damaged")
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(finished), "--iterations", "6")
    assert outcome.code == 0 and f"resuming from {checkpoints / '0000002'}" in outcome.err
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "0000004",
        "0000004-good",
        "0000006",
        "0000009.damaged",
    ]


def test_starting_over_moves_nothing_from_under_a_run(cli, tiny_teacher, finished) -> None:
    before = contents(finished)
    with FolderLock(finished):
        outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(finished), "--no-resume")
    assert outcome.code == 2 and f"in use by process {os.getpid()}" in outcome.err and contents(finished) == before


def test_a_start_that_was_killed_before_it_wrote_anything_is_no_run(cli, tiny_teacher, tmp_path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".run.yaml.0123456789abcdef.tmp").write_text("name: ti")
    (folder / "run.lock").write_text("")
    assert (
        cli("distill", "--teacher", str(tiny_teacher), "--output", str(folder), "--quiet", "--iterations", "1").code
        == 0
    )
    assert not [path for path in folder.iterdir() if path.name.startswith(".") or path.name == "run.lock"]


def test_settings_that_were_damaged_are_named(cli, tiny_teacher, finished) -> None:
    path = finished / "run.yaml"
    whole = path.read_text()
    path.write_text(whole.replace("summary: a random", "summary: b random"))
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(finished))
    assert outcome.code == 2 and f"{path} is damaged, or was changed by hand" in outcome.err
    # As the hint has it; so are the files of piflow 0.1.
    path.write_text(path.read_text().partition("\n")[2])
    assert (
        cli("distill", "--teacher", str(tiny_teacher), "--output", str(finished), "--quiet", "--iterations", "4").code
        == 0
    )
    assert path.read_text() == whole


def test_another_seed_is_another_run(cli, tiny_teacher, tmp_path) -> None:
    arguments = ["distill", "--teacher", str(tiny_teacher), "--quiet", "--iterations", "2"]
    for seed in ("0", "1"):
        assert cli(*arguments, "--seed", seed, "--output", str(tmp_path / seed)).code == 0
    left, right = tensors_of(tmp_path / "0"), tensors_of(tmp_path / "1")
    assert any(not torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def of_four(tiny_teacher, tmp_path_factory) -> Path:
    """A finished run, which tests copy."""
    from piflow_cli.app import main

    folder = tmp_path_factory.mktemp("finished") / "run"
    told = ["--teacher", str(tiny_teacher), "--output", str(folder), "--quiet", "--iterations", "4"]
    assert main(["distill", *told]) == 0
    return folder


@pytest.fixture
def finished(of_four: Path, tmp_path) -> Path:
    return shutil.copytree(of_four, tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_another_configuration_is_refused_and_left_alone(cli, tiny_teacher, finished) -> None:
    before = contents(finished)
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(finished), "--components", "5")
    assert outcome.code == 2
    assert "belongs to another configuration: policy.components was 3, is 5" in outcome.err
    assert "--no-resume" in outcome.err
    assert contents(finished) == before


def test_a_folder_of_another_teacher_is_refused(cli, tiny_teacher, finished, tmp_path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(tiny_teacher.read_text().replace("name: tiny", "name: large"))
    outcome = cli("distill", "--teacher", str(other), "--output", str(finished))
    assert outcome.code == 2 and "name was tiny, is large" in outcome.err


def test_starting_over_moves_the_earlier_run_aside(cli, tiny_teacher, finished) -> None:
    before = contents(finished)
    arguments = [
        "distill",
        "--teacher",
        str(tiny_teacher),
        "--output",
        str(finished),
        "--no-resume",
        "--iterations",
        "2",
    ]
    assert cli(*arguments, "--components", "5").code == 0
    assert contents(finished.with_name("run.1")) == before
    assert open_student(finished / "adapter").facts.components == 5


def test_what_another_start_tries_a_folder_by_makes_it_no_other(cli, tiny_teacher, tmp_path) -> None:
    """A second start looks whether it may write, while the first looks whose folder it is."""
    (tmp_path / "out" / f"{TRIAL}0123").mkdir(parents=True)
    short = ["--iterations", "1", "--quiet", "--output", str(tmp_path / "out")]
    assert cli("distill", "--teacher", str(tiny_teacher), *short).code == 0


def test_a_folder_with_other_things_in_it_is_refused(cli, tiny_teacher, tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(tmp_path))
    assert outcome.code == 2 and "is not empty and holds no run" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "the disk is full: a/b"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a/b"), "your quota of this disk is used up: a/b"),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), "the disk is read-only: a/b"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "permission denied: a/b"),
        (
            SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"),
            "your quota of this disk is used up",
        ),
        (
            SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
            "the file is larger than this system lets it be",
        ),
        (
            SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"),
            "the disk failed to read or write",
        ),
        (
            SafetensorError("Error while serializing: I/O error: failed to write whole buffer"),
            "a file could not be written or read",
        ),
    ],
)
def test_a_disk_that_takes_no_more_costs_nothing_that_was_saved(
    cli, tiny_teacher, finished, monkeypatch, error, message
) -> None:
    before = contents(finished)

    def refuses(*arguments, **options):
        raise error

    monkeypatch.setattr("piflow_cli.training.checkpoints.save_file", refuses)
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(finished), "--iterations", "6")
    assert (
        outcome.code == 1
        and f"Error: {message}" in outcome.err
        and "corrupt" not in outcome.err
        and "delete" not in outcome.err
    )
    after = contents(finished)
    assert {name: after[name] for name in before if name not in ("metrics.jsonl", "run.yaml")} == {
        name: value for name, value in before.items() if name not in ("metrics.jsonl", "run.yaml")
    }
    assert not list(finished.rglob("*.tmp"))
    monkeypatch.undo()
    assert (
        cli("distill", "--teacher", str(tiny_teacher), "--output", str(finished), "--iterations", "6", "--quiet").code
        == 0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda"], "--device cuda: "),
        (["--set", "teacher.base=nowhere"], "there is nothing at nowhere"),
        (["--set", "teacher.family=unet"], "unknown model family 'unet'"),
        (["--set", "data.images=nowhere.safetensors"], "there are no pictures at nowhere.safetensors"),
        (["--set", "optimisation.device_batch_size=3"], "is no multiple of"),
        (["--set", "output.tracker=wandb"], "the tracker wandb is not installed"),
        (["--nfe", "0"], "--nfe 0: must be at least 1"),
        (["--iterations", "-5"], "--iterations -5: must be at least 1"),
        (["--policy", "gmm"], "gmm"),
    ],
)
def test_what_cannot_run_says_so_before_anything_is_written(
    cli, tiny_teacher, tmp_path, monkeypatch, arguments, message
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(tmp_path / "out"), *arguments)
    assert outcome.code == 2
    assert message in outcome.err and "→" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tracker", "hint"),
    [("wandb", "wandb login, or set WANDB_MODE=offline, or --tracker"), ("tensorboard", "→ --tracker")],
)
def test_a_tracker_that_does_not_start_is_named(cli, tiny_teacher, tmp_path, monkeypatch, tracker, hint) -> None:
    """As wandb without a key, whose errors are of its own classes."""

    class CommError(Exception):
        pass

    def refuse(*given: object, **options: object) -> None:
        raise CommError("no API key configured\nuse `wandb login`")

    monkeypatch.setattr(machine, "tracker_of", lambda name: None)
    monkeypatch.setattr("piflow_cli.system.trackers.tracker_of", lambda name: None)
    whole = opening.Accelerator
    monkeypatch.setattr(opening, "Accelerator", lambda log_with, **options: whole(**options))
    monkeypatch.setattr(whole, "init_trackers", refuse)
    outcome = cli(
        "distill", "--teacher", str(tiny_teacher), "--iterations", "1", "--quiet", "--set",
        f"output.tracker={tracker}", "--output", str(tmp_path / "out"),
    )  # fmt: skip
    assert outcome.code == 1 and f"the tracker {tracker} does not start: no API key configured" in outcome.err
    assert hint in outcome.err and len(outcome.err.splitlines()) == 2


def test_a_dry_run_prints_the_plan_and_writes_nothing(cli, tiny_teacher, tmp_path) -> None:
    folder = tmp_path / "out"
    arguments = ["--dry-run", "--json", "--nfe", "2", "--set", "optimisation.device_batch_size=2"]
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(folder), *arguments)
    plan = json.loads(outcome.out)
    assert plan["student"]["evaluations"] == "2 (sigma 1, 0.5)"
    assert plan["optimisation"]["batch"].startswith("8 = 1 x 2 x 4")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "nothing to train on is given"),
        (["--prompts", "absent.txt"], "there are no prompts at absent.txt"),
        (["--prompts", "faulty.jsonl"], "faulty.jsonl"),
        (
            ["--prompts", "p.txt", "--batch-size", "7", "--set", "optimisation.device_batch_size=2"],
            "a batch of 7 is no multiple",
        ),
        (["--data", "empty"], "empty holds no pictures"),
    ],
)
def test_what_needs_no_network_is_looked_at_before_the_hub_is_asked(cli, tmp_path, monkeypatch, given, message) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "p.txt").write_text("a\n")
    (tmp_path / "faulty.jsonl").write_text('{"text": "a"}\n{"text": \n')
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *given, **options: pytest.fail("the Hub was asked"))
    outcome = cli("distill", "--teacher", "flux-dev", *given)
    assert outcome.code == 2 and message in outcome.err and not (tmp_path / "runs").exists()


def test_a_run_says_its_plan_first(cli, tiny_teacher, tmp_path) -> None:
    said = cli("distill", "--teacher", str(tiny_teacher), "--iterations", "1", "--output", str(tmp_path / "out")).err
    assert (
        "8 = 1 x 8 x 1 (processes x device batch x accumulation), samples" in said
        and f"folder   {tmp_path / 'out'}\nverdict  fits: " in said
    )


@pytest.mark.parametrize("shipped", [True, False])
def test_the_quality_to_expect_stands_on_the_bar(cli, tiny_teacher, tmp_path, monkeypatch, shipped) -> None:
    """Of a teacher with a table of it, as the plan has it; of others nothing is said."""
    numbers = ["--batch-size", "8", "--iterations", "2", "--set", "optimisation.schedule=cosine"]
    more = ["--set", "output.preview_every=0", "--output", str(tmp_path / "out")]
    monkeypatch.setattr("piflow_cli.presets.expected._between", lambda rows, evaluations: (0.1713, 0.194))
    outcome = cli("distill", "--teacher", "digits" if shipped else str(tiny_teacher), *numbers, *more)
    assert outcome.code == 0, outcome.err
    bar = [line for line in outcome.err.splitlines() if line.startswith("distilling: ")][-1]
    assert ("expected=0.17-0.19" in bar) == shipped and "evaluations=" in bar
    assert ("0.17 to 0.19" in outcome.err) == shipped
