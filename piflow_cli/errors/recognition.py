"""Recognising an exception, and its message, without importing the library that raised it."""

from __future__ import annotations

import re
from collections.abc import Callable

from .base import PiflowError, RunError

Recognise = Callable[[BaseException], bool]
TableEntry = tuple[Recognise, Callable[[BaseException], PiflowError]]


def is_called(*names: str) -> Recognise:
    """Recognise a class by name: asking for the class itself would import torch or safetensors to report an error."""
    return lambda exc: any(cls.__name__ in names for cls in type(exc).__mro__)


def is_a(*types: type[BaseException]) -> Recognise:
    """Recognise an exception by its class, with those below it."""
    return lambda exc: isinstance(exc, types)


_SYSTEM_NUMBER = re.compile(r"os error (\d+)")


def system_number(exc: BaseException) -> int | None:
    """The number of the system's error behind an exception; None where it is no error of the system."""
    if isinstance(exc, OSError):
        return exc.errno
    # safetensors wraps the system's error in a class of its own and keeps the number in the text only.
    found = _SYSTEM_NUMBER.search(str(exc)) if is_called("SafetensorError")(exc) else None
    return None if found is None else int(found[1])


def is_of_the_system(exc: BaseException) -> bool:
    """Whether the system refused to read or write, which tells nothing about a file's content."""
    return system_number(exc) is not None or is_unnumbered(exc)


def is_unnumbered(exc: BaseException) -> bool:
    """Whether it is the error of safetensors for a file that ends while it writes."""
    return is_called("SafetensorError")(exc) and "I/O error" in str(exc)


def has_number(*numbers: int) -> Recognise:
    """Recognise an error of the system by its number."""
    return lambda exc: system_number(exc) in numbers


def named_file(exc: BaseException) -> str:
    """ ": FILE" where the exception has one, to end a message with."""
    name = getattr(exc, "filename", None)
    return f": {name}" if name is not None else ""


def first_line(exc: BaseException | str) -> str:
    """The first line of what an exception, or its reason, says; its type where it says nothing."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]


def run_error(message: str, hint: str) -> Callable[[BaseException], PiflowError]:
    """An entry whose message may use {place} (the file) and {text} (the exception's own first line)."""
    return lambda exc: RunError(message.format(place=named_file(exc), text=first_line(exc)), hint)
