"""From YAML and command-line assignments to a preset, with every fault found before the first is reported."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from piflow_cli.errors import UsageError
from piflow_cli.presets.contradictions import contradictions
from piflow_cli.presets.schema import ALTERNATIVES, SECTIONS, Preset
from piflow_cli.presets.yaml_files import Fault, describe, read_yaml

COMMAND_LINE = "command line"
LARGEST_FILE = 1 << 20  # bytes
# Keys that say how a preset's own file is read; they are no settings.
OF_FILES = ("extends", "variants")


@dataclass(frozen=True)
class Layer:
    """Values from one place, and the name of that place in messages."""

    source: str
    values: Mapping[str, Any]


def read_file(path: Path) -> tuple[Layer, list[Fault]]:
    """The mapping in a YAML file; a file that cannot be read or is no mapping raises UsageError."""
    try:
        # A device or a pipe may never end.
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise UsageError(f"cannot read {path}: {reason}", "check the path of the preset or --config file") from exc
    if len(text) > LARGEST_FILE:
        raise UsageError(
            f"{path} is larger than {LARGEST_FILE:,} bytes, which no preset is",
            "check the path of the preset or --config file",
        )
    data, faults = read_yaml(text, str(path))
    if not isinstance(data, Mapping):
        found = "is empty" if data is None else f"holds {describe(data)}"
        raise UsageError(
            f"{path}: {found}, not sections of keys", "write `policy:` with `nfe: 1` below it, for example"
        )
    return Layer(str(path), {str(key): _string_keys(value) for key, value in data.items()}), faults


def read_assignment(assignment: str) -> tuple[Layer, list[Fault]]:
    """The layer of one `--set section.key=value`."""
    key, equals, text = assignment.partition("=")
    key = key.strip()
    source = f"--set {assignment}"
    if not (equals and key):
        return Layer(source, {}), [Fault(source, "", "write it as section.key=value, as in policy.nfe=2")]
    value, faults = read_yaml(text, source)
    return Layer(source, nested({key: value})), faults


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1, "c": 2} as {"a": {"b": 1}, "c": 2}."""
    result: dict[str, Any] = {}
    for key, value in dotted.items():
        section, dot, name = key.partition(".")
        if dot:
            result.setdefault(section, {})[name] = value
        else:
            result[section] = value
    return result


def merge(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """Later layers over earlier ones, key by key; also the source of every dotted key and section.

    A key of ALTERNATIVES that a later layer gives takes the others away that earlier layers gave.
    """
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        for section, value in layer.values.items():
            if isinstance(value, Mapping) and merged.get(section) is not None:
                # A section that is no mapping stays as it is, so that this is what gets reported.
                if isinstance(merged[section], Mapping):
                    overruled = _overruled(section, value)
                    merged[section] = {
                        name: item for name, item in merged[section].items() if name not in overruled
                    } | value
            else:
                merged[section] = value
                sources[section] = layer.source
            if isinstance(value, Mapping):
                sources.update({f"{section}.{name}": layer.source for name in value})
    return merged, sources


def _overruled(section: str, values: Mapping[str, Any]) -> set[str]:
    """Keys of earlier layers that no longer count, because ``values`` give another key of their group."""
    groups = ALTERNATIVES.get(section, ())
    return {name for group in groups if any(values.get(key) not in (None, [], ()) for key in group) for name in group}


def parse(layers: list[Layer], home: str) -> tuple[Preset | None, list[Fault]]:
    """The preset that the layers give together, or None and everything that is wrong with it.

    ``home`` names the file that should have held what is missing.
    """
    merged, sources = merge(layers)
    found, sections = [], {}
    for name, kind in SECTIONS.items():
        if merged.get(name) is not None:
            section, wrong = _validated(kind, merged[name], name)
            sections[name] = section
            found += wrong
    # Sections that are valid are taken as they are, and those that are not have been reported.
    broken = {name for name, section in sections.items() if section is None}
    whole = {name: value for name, value in {**merged, **sections}.items() if name not in broken}
    preset, wrong = _validated(Preset, whole)
    found += [(key, what) for key, what in wrong if key not in broken]
    found += contradictions({name: section for name, section in sections.items() if section is not None})
    faults = [Fault(sources.get(key, home), key, what) for key, what in found]
    return (None if faults else preset), faults


def refuse(faults: list[Fault], hint: str) -> None:
    """Raise one UsageError that lists all faults; return if there is none."""
    if len(faults) == 1:
        raise UsageError(str(faults[0]), hint)
    if faults:
        sources = {fault.source for fault in faults}
        if len(sources) > 1:
            raise UsageError("\n  ".join([f"{len(faults)} faults:", *map(str, faults)]), hint)
        rows = [str(Fault("", fault.key, fault.what)) for fault in faults]
        raise UsageError("\n  ".join([f"{sources.pop()}: {len(faults)} faults:", *rows]), hint)


@cache
def known_keys() -> tuple[str, ...]:
    """Every key a preset may hold, sections as section.key."""
    top = [field.name for field in fields(Preset) if field.name not in SECTIONS]
    return (*top, *(f"{name}.{field.name}" for name, section in SECTIONS.items() for field in fields(section)))


def nearest(key: str) -> str | None:
    """The known key a wrong one was probably meant to be: the closest spelling in its section, else in any."""
    section, _, name = key.rpartition(".")
    own = [known for known in known_keys() if known.rpartition(".")[0] == section]
    for candidates in ([*own, *SECTIONS, *OF_FILES] if not section else own, known_keys()):
        names = {known.rpartition(".")[2]: known for known in candidates}
        close = difflib.get_close_matches(name, names, n=1)
        if close:
            return names[close[0]]
    return None


def _string_keys(value: Any) -> Any:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else value


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _validated(kind: type, values: Any, *section: str) -> tuple[Any | None, list[tuple[str, str]]]:
    """The instance of ``kind`` that some values are, or None and the dotted keys and faults of what is wrong."""
    try:
        return _adapter(kind).validate_python(values), []
    except ValidationError as exc:
        return None, [_translate(error, section) for error in exc.errors(include_url=False)]


def _translate(error: Mapping[str, Any], section: tuple[str, ...]) -> tuple[str, str]:
    """Dotted key and plain words for one pydantic error in a ``section``."""
    location = (*section, *error["loc"])
    key = ".".join(str(part) for part in location[:2])
    place = f"item {location[2] + 1} " if len(location) > 2 and isinstance(location[2], int) else ""
    if error["type"] == "unexpected_keyword_argument":
        if key in OF_FILES:
            return key, "unknown key here: a preset's own file may have it, which --teacher FILE.yaml names"
        suggestion = nearest(key)
        return key, f"unknown key; did you mean {suggestion}?" if suggestion else "unknown key"
    if error["type"] in ("missing", "missing_argument"):
        return key, f"{place}is missing"
    if error["type"] == "value_error":
        return key, str(error["ctx"]["error"])
    return key, f"{place}{_demand(error)}, not {describe(error['input'])}"


def _demand(error: Mapping[str, Any]) -> str:
    context = error.get("ctx", {})
    words = {
        "int_type": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_type": "must be a number",
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
    template = words.get(error["type"])
    if template is None:
        return str(error["msg"])
    return template.format(**{name: _bound(value) for name, value in context.items()})


def _bound(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("'", "")
