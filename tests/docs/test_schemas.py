"""What commands print with --json is what docs/pages/schemas says, command by command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jsonschema
import pytest

from piflow_cli import doctor
from piflow_cli.app import program
from piflow_cli.demo import serve
from piflow_cli.demo.window import HOST

SCHEMAS = Path(__file__).parents[2] / "docs" / "pages" / "schemas"
# Beside those of commands by their names.
OTHERS = {"version", "error", "warning", "list-teachers", "plan", "config"}


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def check(name: str, text: str) -> None:
    faults = [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(json.loads(text))]
    assert faults == []


@pytest.fixture
def place(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: None) -> Path:
    """A folder with a run that is whole, and one that is broken."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, "runs/one")
    shutil.copytree(tiny_run, "runs/two")
    shutil.rmtree("runs/two/adapter")
    return tmp_path


def test_every_command_has_a_schema_and_no_schema_is_of_nothing() -> None:
    assert {path.stem for path in SCHEMAS.glob("*.json")} == {*program().commands, *OTHERS} - {"help"}
    for path in SCHEMAS.glob("*.json"):
        validator(path.stem)


def test_a_schema_refuses_what_is_not_said(cli, place: Path) -> None:
    told = json.loads(cli("status", "runs/one", "--json").out)
    check("status", json.dumps(told))
    for wrong in ({**told, "new": 1}, {**told, "iteration": "2"}, {key: told[key] for key in told if key != "loss"}):
        assert not validator("status").is_valid(wrong)


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ("version", "--version"),
        ("status", "status runs/two"),
        ("runs", "runs"),
        ("runs", "runs ."),
        ("cache", "cache"),
        ("cache", "cache prune"),
        ("cache", "cache clear --yes"),
        ("list-teachers", "distill --list-teachers"),
        ("config", "distill --teacher digits --print-config"),
    ],
)
def test_what_is_printed_at_once(cli, place: Path, schema: str, line: str) -> None:
    check(schema, cli(*line.split(), "--json").out)


def test_what_a_check_of_the_machine_prints(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ("Python", "cache", "wandb", "torch")
    monkeypatch.setattr(doctor, "CHECKS", tuple(one for one in doctor.CHECKS if one.name in quick))
    check("doctor", cli("doctor", "--json").out)


def test_what_a_window_prints(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gradio, which makes the window."""

    def open_at(request: serve.DemoRequest, console: object, opened: Callable[[str], None]) -> None:
        opened(f"http://{HOST}:{request.port}/")

    monkeypatch.setattr(serve, "serve", open_at)
    outcome = cli("demo", "runs/one", "--port", "7861", "--json")
    assert outcome.code == 0
    check("demo", outcome.out)


def test_what_a_failure_prints(cli, place: Path) -> None:
    check("error", cli("status", "nowhere", "--json").err)
    said = cli("eval", "runs/one", "--metrics", "beauty", "--json")
    assert (said.code, said.out) == (2, "")
    check("error", said.err)


def test_what_is_computed(cli, place: Path, tiny_teacher: Path) -> None:
    small = ("--num-images", "4", "--fine-steps", "2", "--device", "cpu")
    measured = cli("eval", "runs/one", *small, "--output", "evals/one", "--json")
    check("eval", measured.out)
    check("eval", Path("evals/one/report.json").read_text())
    check("runs", cli("runs", "--json").out)
    for place, options in (("s", ("runs/one",)), ("t", ("--teacher", str(tiny_teacher), "--steps", "2"))):
        check("sample", cli("sample", *options, "--seeds", "0", "--output", place, "--device", "cpu", "--json").out)
    check("export", cli("export", "runs/one", "--format", "adapter", "--output", "e", "--json").out)
    check("inspect-policy", cli("inspect-policy", "runs/one", "--seeds", "0", "--output", "i", "--json").out)
    line = ("distill", "--teacher", str(tiny_teacher), "--iterations", "1", "--output", "runs/new", "--json")
    check("plan", cli(*line, "--dry-run").out)
    check("distill", cli(*line).out)
    warned = cli("sample", "runs/one", "--seeds", "0", "--steps", "1", "--output", "w", "--json").err.splitlines()
    for text in warned:
        check("warning", text)
