"""What pydantic says of a wrong value, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list of two numbers",
    "too_long": "must be a list of two numbers",
    "dataclass_type": "must be a section of keys",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
}


def demand(error: Mapping[str, Any]) -> str:
    """What the value of one pydantic error must be."""
    template = _WORDS.get(error["type"])
    if template is None:
        return str(error["msg"])
    return template.format(**{name: _bound(value) for name, value in error.get("ctx", {}).items()})


def choices(error: Mapping[str, Any]) -> list[str]:
    """The texts among which the value of one pydantic error must be; [] where it is no choice."""
    if error["type"] != "literal_error":
        return []
    return str(error["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")


def _bound(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("'", "")
