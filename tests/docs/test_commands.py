"""What README, CONTRIBUTING and docs say can be typed: it is run, or marked and read by the program's own parser."""

from __future__ import annotations

import argparse
import ast
import re
import runpy
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from itertools import dropwhile
from pathlib import Path

import pytest
from doc_blocks import MARKS, ROOT, Block, blocks
from project_file import PROJECT

from piflow_cli.app import program
from piflow_cli.exporting.request import usual_folder
from piflow_cli.students.locate import WEIGHTS_NAME

# What makes a command of the docs one of seconds; the rest of it is as it is written there.
SHORTER = {
    "distill": ["--iterations", "2", "--batch-size", "4"],
    "eval": ["--num-images", "24", "--fine-steps", "4", "--batch-size", "24", "--cache", "cache"],
    "inspect-policy": ["--seeds", "0"],
}
# What is run elsewhere, and where: reports are drawn for seconds, and what runs this suite runs in .ci/run.
ELSEWHERE = {
    "python docs/hundred_lines.py": (
        "tests/docs/test_pages.py::test_a_hundred_lines_bring_a_student_of_one_evaluation_to_its_teacher"
    ),
    "piflow inspect-policy runs/digits --slice 3,4 --overwrite": (
        "tests/inspection/test_inspect.py::test_an_earlier_report_goes_when_it_is_told_to"
    ),
    "piflow inspect-policy --compare runs/digits runs/digits-dx --overwrite": (
        "tests/inspection/test_inspect.py::test_a_momentum_student_shows_its_rates"
    ),
    "pytest": ".ci/run",
    "python tests/empty_environment.py": ".ci/run",
    "piflow doctor": "tests/commands/test_doctor.py::test_this_machine_trains_and_nothing_is_left_behind",
    "piflow doctor --json": "tests/commands/test_doctor.py::test_this_machine_trains_and_nothing_is_left_behind",
}
BLOCKS = blocks()


def test_every_fence_is_run_or_marked() -> None:
    wrong = [
        f"{block.place}: {block.title}"
        for block in BLOCKS
        if block.language in ("bash", "python") and block.title and block.title not in MARKS and block.file is None
    ]
    assert not wrong, f"titles are one of {MARKS}, or the name of a file"


def test_what_is_run_elsewhere_is_still_said() -> None:
    said = {" ".join(command) for block in BLOCKS if block.language == "bash" for command in block.commands}
    assert said >= ELSEWHERE.keys()


@pytest.mark.parametrize("command", ELSEWHERE)
def test_what_is_run_elsewhere_is_run_there(command: str) -> None:
    """A script has the command itself, behind what it sets; a test has its program, or piflow's command and options."""
    path, _, name = ELSEWHERE[command].partition("::")
    text = (ROOT / path).read_text(encoding="utf-8")
    if not name:
        run = [[*dropwhile(sets_a_variable, words)] for words in Block(path, 1, "bash", "", text).commands]
        assert command.split() in run
        return
    [test] = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == name]
    strings = {node.value for node in ast.walk(test) if isinstance(node, ast.Constant)}
    program, *words = command.split()
    if program == "python":
        assert strings >= {*Path(words[0]).parts} and words[1:] == []
    else:
        assert strings >= {words[0], *(word for word in words if word.startswith("--"))}


def sets_a_variable(word: str) -> bool:
    return re.fullmatch(r"[A-Z_]+=\S*", word) is not None


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
    command = program().commands[words[0]]
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
    """A program of this repository: its own parser takes the arguments, where it has one."""
    script, *arguments = words
    if script == "-m":
        assert arguments[0] in ("venv", "build")
        return
    if "ArgumentParser" not in (ROOT / script).read_text(encoding="utf-8"):
        assert not arguments
        return
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
    assert words[0] == "install"
    for name in words[2 if words[1] == "-e" else 1 :]:
        known, _, extras = name.rstrip("]").partition("[")
        assert known in (".", "piflow", "torch", "torchvision", "build")
        assert not extras or {*extras.split(",")} <= PROJECT["optional-dependencies"].keys()


def cp(words: list[str]) -> None:
    """A file of this repository, or the weights of an adapter that a command of the docs exports."""
    commands = [command for block in BLOCKS if block.language == "bash" for command in block.commands]
    adapters = [command[2] for command in commands if command[:2] == ["piflow", "export"] and "adapter" in command]
    exported = {str(usual_folder(student, None, "adapter") / WEIGHTS_NAME) for student in adapters}
    assert words[0] in exported or (ROOT / words[0]).is_file()


def pytest_(words: list[str], config: pytest.Config) -> None:
    """Options are those of pytest and of its plugins; marks and places are there."""
    told, unknown = config._parser.parse_known_and_unknown_args(words)
    assert not unknown and all((ROOT / place).exists() for place in told.file_or_dir)
    marks = {mark.partition(":")[0] for mark in config.getini("markers")}
    assert {*told.markexpr.split()} <= {*marks, "not", "and"}


def checks(program: str) -> Callable[[list[str]], None]:
    """Of what .ci/run asks for too."""

    def known(words: list[str]) -> None:
        run = Block(".ci/run", 1, "bash", "", (ROOT / ".ci" / "run").read_text(encoding="utf-8")).commands
        assert any(command[:2] == [program, words[0]] for command in run)

    return known


def installed(program: str) -> Callable[[list[str]], None]:
    """Of a package that the extra ``test`` brings: it takes no arguments."""

    def known(words: list[str]) -> None:
        assert not words and entry_points(group="console_scripts", name=program)

    return known


def written(*commands: str) -> Callable[[list[str]], None]:
    """Of programs that are not of this repository, and that a test must not run: as a person has read them."""

    def known(words: list[str]) -> None:
        assert " ".join(words) in commands

    return known


PARSERS: dict[str, Callable[[list[str]], None]] = {
    "piflow": piflow,
    "torchrun": torchrun,
    "accelerate": accelerate,
    "python": python,
    "pip": pip,
    "cp": cp,
    "ruff": checks("ruff"),
    "ty": checks("ty"),
    "lint-imports": installed("lint-imports"),
    "bash": written(".ci/run"),
    "python3": written("-m venv .venv"),
    "source": written(".venv/bin/activate"),
    "git": written("clone YOUR-FORK"),
    "cd": written("piflow"),
    "pre-commit": written("install"),
    "sbatch": written("flux-dev.sbatch"),
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
def test_a_marked_command_is_taken_by_its_parser(words: list[str], pytestconfig: pytest.Config) -> None:
    first = next(place for place, word in enumerate(words) if "=" not in word)
    if words[first] == "pytest":
        pytest_(words[first + 1 :], pytestconfig)
    else:
        PARSERS[words[first]](words[first + 1 :])
    for variable in words[:first]:
        name = variable.partition("=")[0]
        readers = [path for path in (ROOT / "tests").rglob("*.py") if f'"{name}"' in path.read_text(encoding="utf-8")]
        assert readers, f"nothing reads {name}"


@pytest.mark.parametrize(
    "block", [pytest.param(one, id=one.place) for one in BLOCKS if one.language == "python" and one.title in MARKS]
)
def test_a_marked_program_names_what_there_is(block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = import_module(str(node.module))
            assert all(hasattr(module, name.name) for name in node.names)


# Run


@pytest.mark.long
def test_what_is_not_marked_runs(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """README, CONTRIBUTING and docs from beginning to end, in one folder, each command once."""
    monkeypatch.chdir(tmp_path)
    # Some of them remove from the cache.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
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
