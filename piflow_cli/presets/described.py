"""The manual of the settings: every key of a preset with its type, default, bounds and a line of text.

Read off the schema itself, for pages and other programs; nothing that runs needs it.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from piflow_cli.console import dumps
from piflow_cli.presets import schema
from piflow_cli.presets.bounds import Bound
from piflow_cli.presets.schema import SECTIONS, Preset
from piflow_cli.presets.types import TypeWords

KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
UNIONS = (Union, UnionType)
SIGNS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


@dataclass(frozen=True)
class Setting:
    """One key of a preset.

    ``key``: dotted, as `--set` takes it. ``type``: in words. ``default``: as YAML takes it; None where a preset must
    give one. ``bounds``: in words, "" where there are none. ``reason``: why there is a largest value, "" where that
    needs no reason. ``description``: what the key says, one sentence or phrase.
    """

    key: str
    type: str
    default: str | None
    bounds: str
    reason: str
    description: str


def described() -> Iterator[Setting]:
    """Every setting, in the order of the schema: those of no section first, then section by section."""
    yield from _of_class(Preset, "", without=SECTIONS)
    for name, section in SECTIONS.items():
        yield from _of_class(section, f"{name}.")


def sections() -> Mapping[str, str]:
    """The sections by name, each with a sentence about it."""
    return {name: inspect.cleandoc(section.__doc__ or "") for name, section in SECTIONS.items()}


def _of_class(section: type[Any], before: str, without: Mapping[str, type] = {}) -> Iterator[Setting]:
    hints, texts = get_type_hints(section, include_extras=True), _texts()[section.__name__]
    for field in fields(section):
        if field.name not in without:
            words, (bounds, reason) = _type_words(hints[field.name]), _bounds(hints[field.name])
            yield Setting(before + field.name, words, _default(field), bounds, reason, texts[field.name])


@cache
def _texts() -> Mapping[str, Mapping[str, str]]:
    """The text under each field, by class and field."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(schema)).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {
                field.target.id: inspect.cleandoc(text.value.value)
                for field, text in zip(node.body, node.body[1:])
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
                if isinstance(text.value.value, str)
            }
    return found


def _default(field: Field[Any]) -> str | None:
    return None if field.default is MISSING else dumps(field.default).strip('"')


def _type_words(hint: Any) -> str:
    if words := _words(hint):
        return words.type
    kind = _bare(hint)
    if kind in KINDS:
        return KINDS[kind]
    if get_origin(kind) is Literal:
        return " or ".join(", ".join(get_args(kind)).rsplit(", ", 1))
    if get_origin(kind) is tuple:
        return f"list of two {_type_words(get_args(kind)[0])}s"
    return f"{_type_words(_without_none(kind))}, or null"


def _bounds(hint: Any) -> tuple[str, str]:
    """The bounds of a type in words, and the reason for its largest value."""
    if words := _words(hint):
        return words.bounds, ""
    kind = _bare(hint)
    if get_origin(kind) is tuple:
        words, reason = _bounds(get_args(kind)[0])
        return f"each {words}", reason
    if get_origin(kind) in UNIONS:
        return _bounds(_without_none(kind))
    found, reason = [], ""
    for mark in _marks(hint):
        if isinstance(mark, FieldInfo):
            limits = [(name, getattr(limit, name)) for limit in mark.metadata for name in SIGNS if hasattr(limit, name)]
            found += [SIGNS[name].format(f"{value:,}") for name, value in limits]
        elif isinstance(mark, AfterValidator) and isinstance(bound := getattr(mark.func, "__self__", None), Bound):
            found.append(SIGNS["le"].format(bound.text))
            reason = bound.reason
    return ", ".join(found), reason


def _words(hint: Any) -> TypeWords | None:
    return next((mark for mark in _marks(hint) if isinstance(mark, TypeWords)), None)


def _marks(hint: Any) -> tuple[Any, ...]:
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _without_none(union: Any) -> Any:
    (kind,) = (one for one in get_args(union) if one is not NoneType)
    return kind
