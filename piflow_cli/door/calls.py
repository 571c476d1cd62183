"""One way into every function of the door: its signature, its arguments as requests take them, its errors in Python."""

from __future__ import annotations

import difflib
import functools
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import UsageError, explain
from ..sampling.limits import listed
from ..streams import calm
from .arguments import Taken
from .in_python import tell_in_python

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Request = TypeVar("Request")
OPTIONS = "options"  # the name of the ``**options`` of those that have many
SHOWN = 60


def public(
    options: type | None = None, request: Any = None
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """A decorator for functions whose callers are strangers.

    Every argument is read as its annotation says, and all that are wrong are named in one UsageError. An error that a
    user can cause is told in the words of Python, and what libraries say when they are imported is not printed.

    Args:
        options: a TypedDict of what the function takes as ``**options``.
        request: the dataclass with their defaults.
    """

    def made(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        hints = get_type_hints(function, include_extras=True) | _hints_of(options, include_extras=True)
        name = function.__name__  # ty: ignore[missing-attribute]
        hint = f"help(piflow.{name}) lists what there is"
        signature = _signature(function, options, request)

        @functools.wraps(function)
        def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
            try:
                given = _read(_bound(name, signature, arguments, named, hint), hints, hint)
                with calm():
                    return function(**given)  # ty: ignore[missing-argument]
            except Exception as error:
                if (known := explain(error)) is None:
                    raise
                tell_in_python(known, signature.parameters)
                if known is error:
                    raise
                raise known from error

        call.__signature__ = signature  # ty: ignore[missing-attribute]
        return call

    return made


def request_of(kind: type[Request], options: Mapping[str, Any], **given: Any) -> Request:
    """The request of class ``kind`` with the options that were given, and the defaults of the others."""
    return kind(**options, **given)


def _hints_of(options: type | None, include_extras: bool = False) -> dict[str, Any]:
    return {} if options is None else get_type_hints(options, include_extras=include_extras)


def _signature(function: Callable, options: type | None, request: Any) -> inspect.Signature:
    """The function's own signature with its options in the place of ``**options``, types without our marks."""
    own, taken = inspect.signature(function), _hints_of(options)
    plain = get_type_hints(function) | taken
    defaults = {} if request is None else {field.name: field.default for field in fields(request)}
    parameters = [value for name, value in own.parameters.items() if name != OPTIONS]
    parameters += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name]) for name in taken]
    typed = [parameter.replace(annotation=_written(plain[parameter.name])) for parameter in parameters]
    return own.replace(parameters=typed, return_annotation=plain["return"])


def _written(hint: Any) -> Any:
    """A union as it is written today: str | None, where Python gives Optional[str]."""
    return functools.reduce(operator.or_, get_args(hint)) if get_origin(hint) is Union else hint


def _bound(
    name: str, signature: inspect.Signature, arguments: tuple[object, ...], named: Mapping[str, object], hint: str
) -> dict[str, Any]:
    """The arguments of a call by name; raises UsageError for those that do not fit the signature."""
    known = list(signature.parameters)
    if unknown := [word for word in named if word not in known]:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"{name} takes no argument {', '.join(unknown)}{meant}", hint)
    try:
        return signature.bind(*arguments, **named).arguments
    except TypeError as error:
        raise UsageError(f"{name}: {error}", hint) from error


def _read(given: Mapping[str, Any], hints: Mapping[str, Any], hint: str) -> dict[str, Any]:
    """The arguments as requests take them; raises UsageError with all that are of a wrong type."""
    read, faults = {}, []
    for name, value in given.items():
        taken = list(_taken(hints[name]))
        if value is None and NoneType in get_args(hints[name]):
            read[name] = None
            continue
        for kind in taken:
            try:
                read[name] = kind.read(value)
                break
            except (TypeError, ValueError, OverflowError):
                continue
        else:
            words = ", or ".join(kind.words for kind in taken)
            faults.append(f"{name} must be {words}, not {value!r:.{SHOWN}}")
    if faults:
        raise UsageError(listed(faults), hint)
    return read


def _taken(hint: Any) -> Iterator[Taken]:
    """The marks in an annotation, of several that are joined too."""
    if get_origin(hint) is Annotated:
        yield from (mark for mark in hint.__metadata__ if isinstance(mark, Taken))
    elif get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from _taken(part)
