from __future__ import annotations

import json
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
from conftest import fake_module, nothing_refused

DEFAULTS = {
    "student": "runs/digits",
    "format": "adapter",
    "output": Path("exports/digits-adapter"),
    "dtype": None,
    "rank": None,
    "base": None,
    "with_base": True,
    "quantise": None,
    "overwrite": False,
    "push_to_hub": None,
    "private": False,
    "subfolder": None,
    "teacher": None,
    "device": "auto",
    "prompts": (),
    "changed": False,
}


@pytest.fixture
def exports(monkeypatch) -> list:
    asked = []

    def export(request, console):
        asked.append(request)
        return {"output": request.output}

    fake_module(monkeypatch, "exporting.driver", export=export)
    nothing_refused(monkeypatch, "exporting")
    return asked


def test_export_without_options(cli, exports):
    assert cli("export", "runs/digits", "--format", "adapter").out == "output  exports/digits-adapter\n"
    assert vars(exports[0]) == DEFAULTS


def test_the_library_asks_for_just_that():
    from piflow_cli.exporting.driver import export
    from piflow_cli.exporting.request import ExportRequest

    assert [field.name for field in fields(ExportRequest)] == list(DEFAULTS)
    assert list(signature(export).parameters) == ["request", "console"]


def test_export_hands_over_what_was_asked(cli, exports):
    arguments = (
        "--format merged --dtype bf16 --rank 8 --quantise fp8 --no-base --subfolder s --teacher digits --base b"
        " --device cpu --output o --overwrite --push-to-hub me/it --private --accept-changed --prompt fox --prompt cat"
        " --json"
    )
    assert json.loads(cli("export", "owner/name", *arguments.split()).out) == {"output": "o"}
    expected = (
        "owner/name",
        "merged",
        Path("o"),
        "bf16",
        8,
        "b",
        False,
        "fp8",
        True,
        "me/it",
        True,
        "s",
        "digits",
        "cpu",
        ("fox", "cat"),
        True,
    )
    assert tuple(vars(exports[0]).values()) == expected


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["owner/name"], "name-adapter"),
        (["owner/name", "--subfolder", "deep/gm_4step"], "gm_4step-adapter"),
        (["runs/it/"], "it-adapter"),
    ],
)
def test_the_folder_has_the_name_of_the_student(cli, exports, arguments, folder):
    cli("export", *arguments, "--format", "adapter")
    assert exports[0].output == Path("exports") / folder


@pytest.mark.parametrize(
    "arguments", [[], ["runs/digits"], ["--format", "adapter"], ["a", "--format", "adapter", "--rank", "0"]]
)
def test_a_command_line_that_is_wrong_is_refused(cli, exports, arguments):
    assert cli("export", *arguments).code == 2 and not exports
