"""Options and commands that there are not: the nearest that there are, as something to type."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from piflow_cli.commands.misread import example
from piflow_cli.errors import UsageError
from piflow_cli.wording import SHOWN_NAME, shortened

# What another command, or diffusers, calls an option.
ELSEWHERE = {"nfe": "--steps", "num-inference-steps": "--steps"}
# What other programs have as commands.
AS_OPTIONS = {"version": "--version"}
# Above the ratio of colour and lora, and below that of nef and nfe.
NEAR = 0.65
UNKNOWN = "No such command"


def misspelt(exc: BaseException) -> UsageError | None:
    """The error for Typer's complaint ``exc`` about an unknown name; None where it is about something else, or no name
    is near.
    """
    context = getattr(exc, "ctx", None)
    if context is None:
        return None
    words: list[str] = list(context.find_root().obj or ())
    words = words[: words.index("--")] if "--" in words else words
    if type(exc).__name__ == "NoSuchOption":
        return _option(str(getattr(exc, "option_name", "")), words, context.command.get_params(context))
    if str(getattr(exc, "message", "")).startswith(UNKNOWN):
        typed = next((word for word in words if not word.startswith("-")), "")
        meant = _nearest(typed, {**{name: name for name in context.command.commands}, **AS_OPTIONS})
        return None if meant is None else UsageError(f"{UNKNOWN}: {shortened(typed)}", f"type piflow {meant}")
    if str(getattr(exc, "message", "")).startswith("Got unexpected extra argument"):
        return _argument(exc, context)
    return None


def with_one_dash(words: Sequence[str], options: Sequence[Any]) -> UsageError | None:
    """The error for an option that has one dash too few, of which Typer would read a letter and the rest as its value:
    -output DIR would be a folder called utput.
    """
    words = words[: words.index("--")] if "--" in words else words
    names = [name for option in options for name in option.opts]
    letters = {name for name in names if name[:2] != "--"}
    for word in words:
        named = word.partition("=")[0]
        if word[:2] in letters and f"-{named}" in names:
            return _option(named, words, options)
    return None


def _argument(exc: Any, context: Any) -> UsageError | None:
    """The error for a teacher that was named without its option, to a command that takes no argument."""
    from piflow_cli.presets.resolve import available

    typed = exc.message.rpartition(" (")[2].rstrip(")").partition(" ")[0]
    if "teacher" not in context.params or typed not in available():
        return None
    return UsageError(f"unexpected argument: {typed}", f"type --teacher {typed}")


def _option(named: str, words: Sequence[str], options: Sequence[Any]) -> UsageError | None:
    """The error for the option that Typer ``named``, of -seeds the first letter alone."""
    whole = [word for word in words if word.partition("=")[0] == named]
    typed = next(iter(whole or [word for word in words if word.startswith(named) and word[:2] != "--"]), named)
    known = {name: option for option in options for name in (*option.opts, *option.secondary_opts) if name[:2] == "--"}
    names = {name.strip("-"): name for name in known}
    elsewhere = {name: option for name, option in ELSEWHERE.items() if option in known}
    bare, equals, value = typed.partition("=")
    meant = _nearest(bare, elsewhere | names)
    if meant is None:
        return None
    given = value if equals else next(iter(words[words.index(typed) + 1 :] if typed in words else ()), "")
    shown = "" if getattr(known[meant], "is_flag", False) else f" {_value(meant, known[meant], given)}"
    return UsageError(f"No such option: {shortened(bare)}", f"type {meant}{shown}")


def _value(name: str, option: Any, given: str) -> object:
    """What was ``given``, where it is a value that a line can show; else an example, or what stands for one."""
    is_option = given.startswith("-") and not given[1:2].isdigit()
    if given and not is_option and option.nargs == 1 and given.isprintable() and len(given) <= SHOWN_NAME:
        return quote(given)
    found = example(name)
    return (option.metavar or "VALUE") if found is None else found


def _nearest(typed: str, names: Mapping[str, str]) -> str | None:
    """Of ``names`` the only one that begins with what was typed, or the one that is spelt nearest to it."""
    plain = typed.strip("-").replace("_", "-").lower()
    begun = {meant for name, meant in names.items() if plain and name.startswith(plain)}
    close = difflib.get_close_matches(plain, names, n=1, cutoff=NEAR)
    return begun.pop() if len(begun) == 1 else names[close[0]] if close else None
