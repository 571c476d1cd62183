"""Values of options that cannot be read: what was typed, what it must be, and what to type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from piflow_cli.errors import UsageError

# What to type where nothing that was typed is near to a value.
EXAMPLES = {
    "--device": "auto",
    "--format": "adapter",
    "--guidance": 3.5,
    "--height": 1024,
    "--labels": "0-3",
    "--num-images": 64,
    "--seeds": "0-3",
    "--set": "policy.nfe=1",
    "--shift": 3.2,
    "--steps": 4,
    "--stochastic": 0,
    "--teacher": "digits",
    "--temperature": "auto",
    "--width": 1024,
}
_ONE_OF = re.compile(r"is not one of (.+?)\.?$")


def misread(exc: BaseException, placeholders: Mapping[str, str]) -> UsageError | None:
    """The error for Typer's complaint ``exc`` about a value; None where it is about something else.

    ``placeholders``: what stands for the value of each option in the help.
    """
    if type(exc).__name__ == "BadOptionUsage" and "requires an argument" in str(exc):
        option = str(getattr(exc, "option_name", ""))
        value = example(option)
        value = placeholders.get(option) if value is None else value
        return None if value is None else _with_value(f"{option} has no value", option, value)
    if type(exc).__name__ == "BadOptionUsage" and "does not take a value" in str(exc):
        option = str(getattr(exc, "option_name", ""))
        return UsageError(f"{option} takes no value", f"type {option}")
    param: Any = getattr(exc, "param", None)
    if type(exc).__name__ == "MissingParameter" and (value := example(param.opts[0])) is not None:
        return _with_value(f"{param.opts[0]} is not given", param.opts[0], value)
    # Typer reads values by pydantic, whose error has what was typed.
    found = getattr(exc.__cause__, "errors", None)
    if param is None or found is None or not param.opts[0].startswith("--"):
        return None
    option, error = param.opts[0], found(include_url=False)[0]
    typed = str(error["input"])
    if (listed := _ONE_OF.search(str(error["msg"]))) is not None:
        return _not_among(option, typed, re.findall(r"'([^']*)'", listed[1]))
    from piflow_cli.presets.demands import demand

    message, value = f"{option} {typed}: {demand(error)}", _nearest(option, typed, error)
    try:
        # The largest value is known to the option's own check.
        if param.callback is not None:
            param.callback(getattr(exc, "ctx", None), param, value)
    except UsageError as refused:
        return UsageError(message, refused.hint)
    return _with_value(message, option, value)


def _with_value(message: str, option: str, value: object) -> UsageError:
    return UsageError(message, f"type {option} {value}")


def _not_among(option: str, typed: str, choices: Sequence[str]) -> UsageError:
    message = f"{option} {typed}: must be {', '.join(choices[:-1])} or {choices[-1]}"
    if close := difflib.get_close_matches(typed.lower(), choices, n=1):
        return UsageError(message, f"did you mean {close[0]}? type {option} {close[0]}")
    return _with_value(message, option, choices[0])


def _nearest(option: str, typed: str, error: Mapping[str, Any]) -> object:
    """The whole number that was meant, as in 1e3 and 4.0, or else the bound or the example."""
    if "ge" in error.get("ctx", {}):
        return max(error["ctx"]["ge"], EXAMPLES.get(option, 0))
    usual = example(option)
    try:
        number = float(typed)
    except ValueError:
        return 1 if usual is None else usual
    whole = str(error["type"]).startswith("int_") and number.is_integer() and number >= 1
    return int(number) if whole else 1 if usual is None else usual


def example(option: str) -> object:
    """A value of the option, that of a shipped preset where it gives a key of presets; None where none is known."""
    from piflow_cli.presets.flags import FLAGS
    from piflow_cli.presets.mending import shown

    keys = [key for key, name in FLAGS.items() if name == option]
    values = [value for key in keys for value in shown(key)]
    return EXAMPLES.get(option, values[0] if values else None)
