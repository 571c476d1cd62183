"""How a person types what a hint says, from the line that was wrong."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from piflow_cli.app import program

# Alternatives of a hint; the first is typed.
ALTERNATIVES = re.compile(r"; |, or |, (?=name another folder)|, and | or (?=--|leave )|, then |, which |, of which ")
CHOICES = re.compile(
    r"(?:choose one of|choose among|name one of them:|name one of(?! them)|name the run|known:|at or below)"
    r" (?!--)([^ ,;]+)"
)
WHOLE = re.compile(r"piflow ([a-z-]+)")
LEAVE_OUT = re.compile(r"leave (it|them|--[a-z-]+)(?: '[^']*'| [^ ]*=[^ ]*)? out")
OUT_OF_LIST = re.compile(r"leave ([a-z-]+) out of (--[a-z-]+)")
ADDED = re.compile(r"(--[a-z][a-z-]+)((?: (?!--|out\b|with\b|too\b|to\b|is\b|alone\b)(?:\"[^\"]*\"|[^ ]+))*)")


def commands(hint: str) -> list[str]:
    """The parts of a hint that are alternatives to each other."""
    return [part for part in ALTERNATIVES.split(hint) if part]


def retyped(
    line: Sequence[str], hint: str, fill: Mapping[str, str], it: Sequence[str] = (), pick: int = 0
) -> list[str]:
    """The arguments after following ``hint``, given for ``line``.

    ``fill``: what its words in capitals stand for. ``it``: the options that "it" or
    "them" are, and the one a bare value is for. ``pick``: which of the alternatives.
    """
    part = commands(hint)[pick]
    if (whole := WHOLE.search(part)) and whole[1] in {*program().commands, "--help", "--version"}:
        return [filled(word, fill) for word in whole_command(part[whole.start(1) :])]
    replaces = part.startswith(("in their place", "in the student's place")) or part.endswith(" in its place")
    if (it and part.startswith("keep ")) or part.endswith(" alone") or replaces:
        for name in it:
            line = without(line, name)
        if not replaces:
            return list(line)
    if found := OUT_OF_LIST.search(part):
        name, option = found.groups()
        listed = line[list(line).index(option) + 1].split(",")
        gone = it if name == "it" else [name]
        return with_option(line, option, ",".join(value for value in listed if value not in gone))
    if found := LEAVE_OUT.search(part):
        names = it if found[1] in ("it", "them") else (found[1],)
        for name in names:
            line = without(line, name)
        return list(line)
    if found := CHOICES.search(part):
        value = filled(found[1], fill)
        if not it[0].startswith("--"):
            return [value if word == it[0] else word for word in line]
        return with_option(without(line, it[0]), it[0], value)
    for name in it:
        # What no command knows makes room for what it was meant to be.
        if parameter(line[0], name) is None:
            line = without(line, name)
    options = ADDED.findall(part)
    assert options, f"nothing to type in {part!r}"
    for name, rest in options:
        line = with_option(line, name, *[filled(word.rstrip(",:;"), fill) for word in shlex.split(rest)])
    return list(line)


def whole_command(text: str) -> list[str]:
    """A command and what belongs to it, up to the first word of the sentence around it."""
    first, *words = shlex.split(text.replace("`", ""))
    taken = [first]
    for word in words:
        value = taken[-1].startswith("--") and takes_value(first, taken[-1])
        if not value and re.fullmatch("[a-z]+", word):
            break
        taken.append(word)
    return taken


def takes_value(command: str, name: str) -> bool:
    return not command.startswith("--") and name != "--help" and not getattr(parameter(command, name), "is_flag", False)


def filled(word: str, fill: Mapping[str, str]) -> str:
    """``word``, or what stands in its place where it is in capitals."""
    if word in fill:
        return fill[word]
    assert not re.fullmatch(r"[A-Z]{2,}(\[.*\])?", word), f"{word} is to be filled in"
    return word


def parameter(command: str, name: str):
    options = program().commands[command].params
    return next((option for option in options if name in (*option.opts, *option.secondary_opts)), None)


def without(line: Sequence[str], name: str) -> list[str]:
    """``line`` without the option ``name`` and its value, or without the first word that is ``name``."""
    words = list(line)
    while name in words:
        place = words.index(name)
        takes = name.startswith("--") and takes_value(words[0], name)
        del words[place : place + 1 + takes]
    return words


def with_option(line: Sequence[str], name: str, *values: str) -> list[str]:
    """``line`` with the option in the place of what it has; of several --set the last holds."""
    option = parameter(line[0], name)
    values = () if getattr(option, "is_flag", False) else values[: option.nargs if option.nargs > 0 else 1]
    words = list(line) if name == "--set" else without(line, name)
    return [*words, name, *values]
