"""What README and docs say can be typed: it is run, or it is marked and read by the program's own parser."""

from __future__ import annotations

import argparse
import ast
import runpy
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from doc_blocks import MARKS, ROOT, blocks
from typer.main import get_command

from piflow_cli.app import app

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

# What makes a command of the docs one of seconds; the rest of it is as it is written there.
SHORTER = {
    "distill": ["--iterations", "2", "--batch-size", "4"],
    "eval": ["--num-images", "24", "--fine-steps", "4", "--batch-size", "24", "--cache", "cache"],
    "inspect-policy": ["--seeds", "0"],
}
# What other tests run: of pytest it is this suite, and reports are drawn for seconds.
ELSEWHERE = {
    "python docs/hundred_lines.py": "tests/docs/test_pages.py",
    "pytest": "tests",
    "piflow doctor": "tests/commands/test_doctor.py",
    "piflow doctor --json": "tests/commands/test_doctor.py",
    "piflow inspect-policy runs/digits --slice 3,4 --overwrite": "tests/inspection/test_inspect.py",
    "piflow inspect-policy --compare runs/digits runs/digits-dx --overwrite": "tests/inspection/test_inspect.py",
}
BLOCKS = blocks()


def test_every_fence_is_run_or_marked() -> None:
    wrong = [
        f"{block.place}: {block.title}"
        for block in BLOCKS
        if block.language in ("bash", "python") and block.title and block.title not in MARKS and block.file is None
    ]
    assert not wrong, f"titles are one of {MARKS}, or the name of a file"


def test_what_other_tests_run_is_still_said() -> None:
    said = {" ".join(command) for block in BLOCKS if block.language == "bash" for command in block.commands}
    assert said >= ELSEWHERE.keys() and all((ROOT / test).exists() for test in ELSEWHERE.values())


def test_there_is_something_to_run_and_something_to_parse() -> None:
    run = [command for block in BLOCKS if block.language == "bash" and not block.title for command in block.commands]
    assert {"distill", "sample", "eval", "export", "inspect-policy"} <= {
        words[1] for words in run if words[0] == "piflow"
    }
    assert any(block.title == "Needs a GPU and weights" for block in BLOCKS)


# Read by their parsers


def piflow(words: list[str]) -> None:
    if words == ["--version", "--json"]:
        return
    command = get_command(app).commands[words[0]]
    given = [word for word in words[1:] if word != "--list-teachers"]
    assert command.make_context(words[0], given, obj=given).args == []


def torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    launched(get_args_parser().parse_args(words))


def accelerate(words: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    assert words[0] == "launch"
    launched(launch_command_parser().parse_args(words[1:]))


def launched(told: argparse.Namespace) -> None:
    assert told.module and told.training_script == "piflow_cli"
    piflow(told.training_script_args)


class Parsed(Exception):
    """The arguments were read, and nothing is to be run."""


def python(words: list[str]) -> None:
    """A program of this repository: its own parser takes the arguments."""
    script, *arguments = words
    read = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, given: list[str] | None = None, *others: object) -> None:
        read(self, arguments)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.syspath_prepend(str((ROOT / script).parent))
        with pytest.raises(Parsed):
            runpy.run_path(str(ROOT / script), run_name="__main__")


def pip(words: list[str]) -> None:
    """Extras are those of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert words[0] == "install"
    for name in words[1:]:
        known, _, extra = name.rstrip("]").partition("[")
        assert known in (".", "piflow", "torch", "torchvision")
        assert not extra or extra in project["optional-dependencies"]


def cp(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file()


def pytest_(words: list[str]) -> None:
    assert words[0] == "-k" and len(words) == 2


PARSERS: dict[str, Callable[[list[str]], None]] = {
    "piflow": piflow,
    "torchrun": torchrun,
    "accelerate": accelerate,
    "python": python,
    "pip": pip,
    "cp": cp,
    "pytest": pytest_,
}


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=f"{block.place}: {' '.join(words)}")
        for block in BLOCKS
        if block.language == "bash"
        for words in block.commands
        if block.title or words[0] == "pip" or (words[0] == "piflow" and " ".join(words) in ELSEWHERE)
    ],
)
def test_a_marked_command_is_taken_by_its_parser(words: list[str]) -> None:
    PARSERS[words[0]](words[1:])


@pytest.mark.parametrize(
    "block", [pytest.param(one, id=one.place) for one in BLOCKS if one.language == "python" and one.title in MARKS]
)
def test_a_marked_program_names_what_there_is(block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = import_module(str(node.module))
            assert all(hasattr(module, name.name) for name in node.names)


# Run


def test_what_is_not_marked_runs(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """README and docs from their beginning to their end, in one folder, each command once."""
    monkeypatch.chdir(tmp_path)
    for block in BLOCKS:
        if block.file is not None and "/" not in block.file and block.language in ("text", "yaml"):
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    done = {*ELSEWHERE}
    # The programs of a page go on from each other.
    names: dict[str, dict[str, object]] = {}
    for block in BLOCKS:
        if block.language == "python" and not block.title:
            exec(compile(block.text, block.place, "exec"), names.setdefault(block.page, {}))
        elif block.language == "bash" and not block.title:
            for words in block.commands:
                if " ".join(words) not in done and words[0] != "pip":
                    _run(cli, block.place, words)
                done.add(" ".join(words))


def _run(cli, place: str, words: list[str]) -> None:
    assert words[0] == "piflow", f"{place}: {words[0]} is neither run nor marked"
    outcome = cli(*words[1:], *([] if words[1].startswith("-") else _shorter(words)))
    assert outcome.code == 0, f"{place}: {' '.join(words)}\n{outcome.err}"


def _shorter(words: list[str]) -> list[str]:
    """What is added to a command: nothing that it says itself, or that it would refuse."""
    if "--list-teachers" in words or "--images" in words:
        return []
    options = SHORTER.get(words[1], [])
    return [word for pair in zip(options[::2], options[1::2]) if pair[0] not in words for word in pair]
