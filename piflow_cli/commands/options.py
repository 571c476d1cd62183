"""Options that commands share, and the parsers of their values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from piflow_cli.commands.completions import complete_teacher
from piflow_cli.errors import UsageError
from piflow_cli.presets.bounds import IMAGES, PROCESSES, Bound
from piflow_cli.presets.choices import BasePrecision as Precision
from piflow_cli.presets.lora_texts import split_lora
from piflow_cli.presets.places import expanded
from piflow_cli.sampling.limits import (
    LARGEST_VALUE,
    check_guidance,
    check_lora,
    check_shift,
    check_stochastic,
    check_temperature,
)


def check_device(device: str) -> str:
    """The name auto, cpu, mps, cuda or cuda:N; the run finds out whether the machine has it."""
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device) is None:
        raise UsageError(f"--device {device}: no such kind of device", "type --device auto, cpu, cuda or cuda:0")
    return device


def parse_ranges(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers written as `0-3,7`, in the order written; `option` names the source for messages.

    Raises:
        UsageError: anything else, a range that runs backwards, or a number that comes twice.
    """
    values: dict[int, None] = {}
    for part in text.split(","):
        first, last = _range(part.strip(), text, option)
        if len(values) + last - first + 1 > IMAGES.most:
            raise UsageError(f"{option} {text}: more than {IMAGES.text} numbers", f"shorten the range: {option} 0-63")
        for value in range(first, last + 1):
            if value in values:
                raise UsageError(f"{option} {text}: {value} comes twice", "name each number once")
            values[value] = None
    return tuple(values)


def parse_temperature(text: str) -> float | str:
    """`auto`, or a number above 0 and at most 1."""
    return check_temperature(text if text == "auto" else _number(text), text)


def parse_stochastic(text: str) -> float:
    """The share of re-noising between evaluations: 0 is the ODE, inf re-noises fully."""
    return check_stochastic(_number(text), text)


def parse_guidance(text: str) -> float:
    """A guidance scale of at least 1; 1 is no guidance."""
    return check_guidance(_number(text), text)


def parse_lora(text: str) -> tuple[str, float]:
    """`PATH`, or `PATH:SCALE` with a number; the scale is 1 where none is written."""
    return check_lora(split_lora(text), text)


def _range(part: str, text: str, option: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]+)(?:\s*-\s*([0-9]+))?", part)
    if match is None:
        found = f"{part!r} is" if part else "an empty item is"
        raise UsageError(f"{option} {text}: {found} neither a number nor a range", f"write it like {option} 0-3,7")
    digits = [group for group in match.groups() if group is not None]
    # Python refuses to convert numbers of thousands of digits; none of them is in range.
    if any(len(number) > len(str(LARGEST_VALUE)) or int(number) > LARGEST_VALUE for number in digits):
        raise UsageError(f"{option}: a number is too large", f"stay at or below {LARGEST_VALUE}")
    first, last = int(digits[0]), int(digits[-1])
    if first > last:
        mended = ",".join(f"{last}-{first}" if other.strip() == part else other for other in text.split(","))
        raise UsageError(f"{option} {text}: the range {first}-{last} runs backwards", f"type {option} {mended}")
    return first, last


def _number(text: str) -> float:
    """A number, or NaN, which no range contains."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def with_read_paths(options: Sequence[Any], arguments: Sequence[str]) -> list[str]:
    """``arguments``, with the home folder in place of a leading ~ in the values of those ``options`` that are paths.

    A shell leaves it as it is in --output=~/pictures and in quotes, and a folder of that name would be made.

    Raises UsageError where a path is empty, which would be read as the current folder, or as an option that was not
    given; and where nobody has the home that ~ names.
    """
    named = {name: option for option in options if option.metavar in OF_PATHS for name in option.opts}
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    for place, word in enumerate(words[:end]):
        name, equals, value = word.partition("=")
        if (letter := word[:2]) in named and letter != "--" and word != letter:
            # Typer would take -o=DIR for a folder whose name begins with =.
            name, equals, value = letter, "=", word[2:].removeprefix("=")
        if (option := named.get(name)) is None:
            continue
        given = [value] if equals else words[place + 1 : min(end, place + 1 + option.nargs)]
        if "" in given:
            raise UsageError(f"{name}: nothing is named, its value is empty", f"name one: {name} {option.metavar}")
        read = [str(expanded(path)) if path.startswith("~") else path for path in given]
        if equals:
            words[place] = f"{name}={read[0]}" if name.startswith("--") else f"{name}{read[0]}"
        else:
            words[place + 1 : place + 1 + len(read)] = read
    return words


PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "labels": lambda text: parse_ranges(text, "--labels"),
    "seeds": lambda text: parse_ranges(text, "--seeds"),
    "temperature": parse_temperature,
    "stochastic": parse_stochastic,
    "guidance": parse_guidance,
    "shift": check_shift,
}
"""Options by name, with the readers of what was typed: all commands mean the same by one name."""


def read_options(context: typer.Context, *names: str) -> dict[str, Any]:
    """The options of a command that its request takes under the same names, read; one that was not given is None."""
    given = {name: context.params[name] for name in names}
    return {
        name: PARSERS[name](value) if name in PARSERS and value is not None else value for name, value in given.items()
    }


MODEL, POLICY, DATA, PRESET = "Model", "Policy", "Data", "Preset"
OPTIMISATION, MEMORY, SAMPLING, OUTPUT = "Optimisation", "Memory", "Sampling", "Output"


# What stands for the value of such an option in the help.
OF_PATHS = ("DIR", "FILE", "PATH", "PATH[:SCALE]", "PICTURE", "SOURCE", "STUDENT", "RUN", "A B", "WHAT", "FOLDER")


def examples(*rows: tuple[str, str], closing: str) -> str:
    """The end of a command's help: commands with what they do, and a closing sentence."""
    width = max(len(command) for command, _ in rows)
    lines = [f"  [cyan]{command.ljust(width)}[/]  [dim]{what}[/]" for command, what in rows]
    return "\n".join(["[bold]Examples[/]", *lines]) + f"\n\n{closing}"


# Options that have a letter too.
LETTERS = {"--output": ("-o",), "--version": ("-V",)}


def setting(
    names: str,
    help: str,
    panel: str,
    metavar: str | None = None,
    minimum: int | None = None,
    bound: Bound | None = None,
    complete: Callable[[str], list[str]] | None = None,
) -> Any:
    """An option in a panel of the help, without a default: preset or student give what is not given."""
    return typer.Option(
        names,
        *LETTERS.get(names, ()),
        help=help,
        rich_help_panel=panel,
        metavar=metavar,
        min=minimum,
        callback=None if bound is None else bound.option(names),
        autocompletion=complete,
        show_default=False,
    )


def switch(names: str, help: str, panel: str) -> Any:
    """An option that is given or not and takes no value."""
    return setting(names, help, panel, metavar="")


Json = Annotated[bool, switch("--json", "Print the result as JSON on stdout.", OUTPUT)]
Quiet = Annotated[bool, switch("--quiet", "Print nothing but results and errors.", OUTPUT)]
Overwrite = Annotated[bool, switch("--overwrite", "Replace what this command wrote there before.", OUTPUT)]
Base = Annotated[str | None, setting("--base", "The teacher's weights: a folder, file or Hub id.", MODEL, "PATH")]
BasePrecision = Annotated[
    Precision | None,
    setting(
        "--base-precision",
        "Precision of the weights below adapters: fp32, bf16, fp8, or int8 and nf4 (with CUDA and bitsandbytes).",
        MEMORY,
        "TYPE",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Where to compute: auto, cpu, cuda or cuda:N.",
        callback=check_device,
        rich_help_panel=MODEL,
    ),
]
NumProcesses = Annotated[
    int | None,
    setting(
        "--num-processes",
        "Processes on this machine, one for each GPU; default: 1, or as torchrun says.",
        MODEL,
        "N",
        1,
        PROCESSES,
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        metavar="NAME",
        help="A preset, or the path of a preset file.",
        autocompletion=complete_teacher,
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
TextColumn = Annotated[
    str | None, setting("--text-column", "The column of prompts or captions; default: text.", DATA, "NAME")
]
Subfolder = Annotated[str | None, setting("--subfolder", "A folder inside that of the student.", MODEL, "FOLDER")]
