"""`piflow help`, letters for options, and what a shell offers for their values."""

from __future__ import annotations

from pathlib import Path

import pytest
from forbidden import forbid

from piflow_cli.app import program
from piflow_cli.commands import completions
from piflow_cli.commands.help import NAME
from piflow_cli.evaluation.metric_kinds import metric_names
from piflow_cli.exporting.formats import FORMATS


@pytest.mark.parametrize("command", [*program().commands, None])
def test_help_is_that_of_the_option(cli, command: str | None) -> None:
    named = [] if command is None else [command]
    asked = cli(NAME, *named)
    assert (asked.code, asked.err) == (0, "") and asked.out == cli(*named, "-h").out
    # Nothing is wider than the screen, or cut off.
    assert [line for line in asked.out.splitlines() if len(line) > 80 or "…" in line] == []


def test_help_names_the_opposites_of_switches(cli) -> None:
    switches = [option for option in program().commands["distill"].params if option.secondary_opts]
    told = cli("distill", "-h").out
    assert len(switches) > 2 and all(name in told for option in switches for name in option.secondary_opts)


def test_help_of_what_there_is_not_is_refused(cli) -> None:
    asked = cli(NAME, "distil")
    assert asked.code == 2 and "No such command" in asked.err


def test_the_version_and_every_output_have_a_letter(cli) -> None:
    assert cli("-V").out == cli("--version").out
    options = [option for command in program().commands.values() for option in command.params]
    outputs = [option.opts for option in options if "--output" in option.opts]
    assert len(outputs) > 3 and all("-o" in names for names in outputs)


def test_a_shell_is_offered_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/digits", "runs/dx", "runs/notes", ".hidden"):
        Path(name).mkdir(parents=True)
    for name in ("runs/digits/run.yaml", "runs/dx/run.yaml", "student.safetensors"):
        Path(name).touch()
    forbid(monkeypatch, Path("runs/lost+found"))
    assert completions.complete_student("") == ["runs/digits", "runs/dx", "runs/", "student.safetensors"]
    assert completions.complete_student("runs/d") == ["runs/digits", "runs/dx", "runs/digits/", "runs/dx/"]
    assert completions.complete_student(f"{tmp_path}/st") == [f"{tmp_path}/student.safetensors"]
    assert completions.complete_student("nowhere/") == []
    assert completions.complete_format("") == list(FORMATS)
    assert completions.complete_metrics("") == list(metric_names())
    assert completions.complete_metrics("fid,") == [f"fid,{name}" for name in metric_names() if name != "fid"]
    assert completions.complete_limit("vel") == ["velocity-error="]
    assert completions.complete_reference("") == ["data", "teacher", "clean-fid:"]
    assert completions.complete_reference("stu") == ["student.safetensors"]
    assert completions.complete_assignment("optimisation.learn") == ["optimisation.learning_rate="]


@pytest.mark.parametrize(
    ("command", "argument", "offered"),
    [
        ("export", "format", "complete_format"),
        ("eval", "metrics", "complete_metrics"),
        ("eval", "reference", "complete_reference"),
        ("distill", "assignments", "complete_assignment"),
        *((command, "student", "complete_student") for command in ("sample", "export", "inspect-policy")),
        ("eval", "students", "complete_student"),
        ("status", "run", "complete_student"),
    ],
)
def test_options_and_arguments_offer_them(command: str, argument: str, offered: str, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    option = next(one for one in program().commands[command].params if one.name == argument)
    context = program().commands[command].make_context(command, [], resilient_parsing=True)
    found = [item.value for item in option.shell_complete(context, "")]
    assert found == getattr(completions, offered)("")


def test_a_preset_in_a_students_place_is_told_what_it_is(cli, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli("export", "digits", "--format", "adapter")
    assert said.code == 2 and "which is the preset of a teacher" in said.err
    assert "piflow distill --teacher digits" in said.err


def test_lr_is_the_learning_rate(cli, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for typed in ("lr=0.1", "optimisation.lr=0.1"):
        said = cli("distill", "--teacher", "digits", "--set", typed, "--dry-run")
        assert said.code == 2 and "--set optimisation.learning_rate=0.1" in said.err
