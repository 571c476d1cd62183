"""`piflow inspect-policy`: what the command line asks of the library."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
from conftest import fake_module, nothing_refused
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.commands.inspect_policy import parse_slice
from piflow_cli.errors import UsageError
from piflow_cli.inspection.request import Position

DEFAULTS = {
    "students": ("runs/digits",),
    "labels": None,
    "prompts": (),
    "prompts_from": None,
    "text_column": None,
    "seeds": None,
    "height": None,
    "width": None,
    "frames": None,
    "at": 1,
    "position": None,
    "teacher": None,
    "base": None,
    "subfolder": None,
    "vae": None,
    "base_precision": None,
    "output": Path("inspection/digits"),
    "overwrite": False,
    "device": "auto",
}


@pytest.fixture
def asked(monkeypatch) -> list:
    found = []

    def inspect_policy(request, console):
        found.append(request)
        return {"students": [], "verdict": [{"what": "log-std", "digits": "-3"}], "files": ["out/policy.html"]}

    fake_module(monkeypatch, "inspection.inspect", inspect_policy=inspect_policy)
    nothing_refused(monkeypatch, "inspection")
    return found


def test_without_options(cli, asked) -> None:
    outcome = cli("inspect-policy", "runs/digits")
    assert outcome.out == "WHAT     DIGITS\nlog-std  -3\n" and "out/policy.html" in outcome.err
    assert vars(asked[0]) == DEFAULTS


def test_the_library_asks_for_just_that() -> None:
    from piflow_cli.inspection.inspect import inspect_policy
    from piflow_cli.inspection.request import InspectRequest

    assert [field.name for field in fields(InspectRequest)] == list(DEFAULTS)
    assert list(signature(inspect_policy).parameters) == ["request", "console"]


def test_what_was_asked_is_handed_over(cli, asked) -> None:
    arguments = (
        "--labels 3,5-6 --prompts p.txt --text-column c --seeds 7,0-1 --height 64 --width 96 --frames 9 --at 3"
        " --slice 4,5,6 --teacher digits --base b --subfolder s --vae v --base-precision bf16 --output o --overwrite"
        " --device cpu --json"
    )
    outcome = cli("inspect-policy", "r", "a red fox", "a cat", *arguments.split())
    assert json.loads(outcome.out)["files"] == ["out/policy.html"]
    request = asked[0]
    position = Position(4, 5, 6)
    expected = (
        ("r",),
        (3, 5, 6),
        ("a red fox", "a cat"),
        "p.txt",
        "c",
        (7, 0, 1),
        64,
        96,
        9,
        3,
        position,
        "digits",
        "b",
        "s",
        "v",
        "bf16",
        Path("o"),
        True,
        "cpu",
    )
    assert tuple(vars(request).values()) == expected


def test_two_students_and_a_prompt(cli, asked) -> None:
    assert cli("inspect-policy", "--compare", "runs/a", "runs/b", "a red fox").code == 0
    assert (asked[0].students, asked[0].prompts, asked[0].output) == (
        ("runs/a", "runs/b"),
        ("a red fox",),
        Path("inspection/a-b"),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no student given"),
        (["runs/a", "--compare", "runs/b", "runs/c"], "runs/a is given, and --compare too"),
        (["runs/a", "--compare", "runs/b"], "--compare"),
        (["--compare", "runs/a", "runs/a"], "runs/a is named twice"),
        (["runs/a", "--at", "x"], "--at"),
        (["runs/a", "--base-precision", "int4"], "--base-precision int4: must be fp32, bf16, fp8, int8 or nf4"),
        (["runs/a", "--device", "tpu"], "--device tpu"),
    ],
)
def test_a_wrong_command_line(cli, asked, arguments, message) -> None:
    outcome = cli("inspect-policy", *arguments)
    assert outcome.code == 2 and message in outcome.err and "→" in outcome.err and not asked


@given(st.lists(st.integers(0, 10**9 - 1), min_size=2, max_size=3))
def test_a_slice_is_read_as_written(numbers: list[int]) -> None:
    position = parse_slice(",".join(map(str, numbers)))
    assert [position.x, position.y, position.axis] == [*numbers, 0][:3]


@given(st.text(alphabet="0123456789,-. x", max_size=8))
def test_nothing_else_is_a_slice(text: str) -> None:
    parts = text.split(",")
    if len(parts) in (2, 3) and all(part.isdecimal() for part in parts):
        return
    with pytest.raises(UsageError, match="--slice"):
        parse_slice(text)


def test_the_help_has_examples_and_nothing_heavy(cli) -> None:
    out = cli("inspect-policy", "--help").out
    places = [out.index(f"╭─ {panel} ─") for panel in ("Inspection", "Model", "Sampling", "Output")]
    assert places == sorted(places)
    lines = [line.strip() for line in out[out.index("Examples") :].splitlines()[1:]]
    shown = lines[: lines.index("")]
    assert len(shown) >= 3 and all(line.startswith("piflow inspect-policy ") for line in shown)
    program = (
        "import sys; from piflow_cli.app import main; main(['inspect-policy', '--help']); print(sorted({'torch',"
        " 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
