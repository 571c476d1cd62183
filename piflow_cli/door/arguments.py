"""What the functions of the door share: arguments as requests take them, errors as commands tell them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

from ..errors import PiflowError, explain

Place = str | Path
"""A path, or a name: of a preset, or on the Hub."""
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def explained(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """``function``, which raises a library's errors that a user can cause as the command line tells them."""

    @functools.wraps(function)
    def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        try:
            return function(*arguments, **options)
        except PiflowError:
            raise
        except Exception as error:
            if (known := explain(error)) is None:
                raise
            raise known from error

    return call


def text(place: Place | None) -> str | None:
    """A place as requests take it where it may be on the Hub."""
    return None if place is None else str(place)


def path(place: Place | None) -> Path | None:
    """A place on this machine."""
    return None if place is None else Path(place)


def texts(given: Place | Iterable[Place]) -> tuple[str, ...]:
    """One place or several as texts."""
    return (str(given),) if isinstance(given, (str, Path)) else tuple(map(str, given))


def numbers(given: Iterable[int]) -> tuple[int, ...]:
    """Whole numbers, of numpy too, as plain ones; raises TypeError for others."""
    return tuple(map(operator.index, given))


def numbers_if_given(given: Iterable[int] | None) -> tuple[int, ...] | None:
    """The :func:`numbers`, or None where none are given."""
    return None if given is None else numbers(given)
