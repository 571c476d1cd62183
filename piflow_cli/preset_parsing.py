"""From YAML and command-line assignments to a preset, with every fault found before the first is reported."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from piflow_cli.errors import UsageError
from piflow_cli.preset_schema import ALTERNATIVES, SECTIONS, Preset, contradictions

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where it was written, the dotted key ("" for the whole), and what is wrong with it."""

    source: str
    key: str
    what: str

    def __str__(self) -> str:
        # `--set policy.nfe=0` names its key already.
        key = "" if self.source.startswith(f"--set {self.key}=") else self.key
        return ": ".join(part for part in (self.source, key, self.what) if part)


@dataclass(frozen=True)
class Layer:
    """Values from one place, and the name of that place for messages."""

    source: str
    values: Mapping[str, Any]


class PresetLoader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number and a key that appears twice is remembered as a fault."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.repeated: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key_node.value in seen:
                self.repeated.append(f"line {key_node.start_mark.line + 1}: the key {key_node.value} appears twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


class PresetDumper(yaml.SafeDumper):
    """Quotes text that PresetLoader would take for a number."""


# PyYAML follows YAML 1.1, where a float needs a point and a signed exponent; this is the float of YAML 1.2.
for _kind in (PresetLoader, PresetDumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def write_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML that :func:`read_yaml` reads back."""
    return yaml.dump(data, Dumper=PresetDumper, sort_keys=False)


def read_yaml(text: bytes | str, source: str) -> tuple[Any, list[Fault]]:
    """The content of a YAML text and the keys repeated in it; a syntax error raises UsageError with its line."""
    loader = None
    try:
        loader = PresetLoader(text)
        return loader.get_single_data(), [Fault(source, "", what) for what in loader.repeated]
    except yaml.MarkedYAMLError as exc:
        lines = text.splitlines()
        line = f":{exc.problem_mark.line + 1}" if exc.problem_mark is not None and len(lines) > 1 else ""
        raise UsageError(f"{source}{line}: not valid YAML: {exc.problem}", "mend that line and try again") from exc
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as exc:
        reason = (str(exc).splitlines() or [type(exc).__name__])[0]
        raise UsageError(
            f"{source}: not valid YAML: {reason}", "write `section:` lines with `key: value` below"
        ) from exc
    finally:
        if loader is not None:
            loader.dispose()


def read_file(path: Path) -> tuple[Layer, list[Fault]]:
    """The mapping in a YAML file; a file that cannot be read or is no mapping raises UsageError."""
    try:
        text = path.read_bytes()
    except OSError as exc:
        reason = exc.strerror if exc.strerror else type(exc).__name__
        raise UsageError(f"cannot read {path}: {reason}", "check the path of the preset or --config file") from exc
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
            if isinstance(value, Mapping) and section in merged:
                # A section that is no mapping stays as it is, so that this is what gets reported.
                if isinstance(merged[section], Mapping):
                    overruled = _overruled(section, value)
                    merged[section] = {name: item for name, item in merged[section].items() if name not in overruled} | value
            else:
                merged[section] = value
                sources[section] = layer.source
            if isinstance(value, Mapping):
                sources.update({f"{section}.{name}": layer.source for name in value})
    return merged, sources


def _overruled(section: str, values: Mapping[str, Any]) -> set[str]:
    """Keys of earlier layers that no longer count, now that ``values`` give one of their group."""
    groups = ALTERNATIVES.get(section, ())
    return {name for group in groups if any(values.get(key) not in (None, [], ()) for key in group) for name in group}


def parse(layers: list[Layer]) -> tuple[Preset | None, list[Fault]]:
    """The preset that the layers give together, or None and everything that is wrong with it."""
    merged, sources = merge(layers)
    preset, found = None, []
    try:
        preset = _adapter(Preset).validate_python(merged)
    except ValidationError as exc:
        found = [_translate(error) for error in exc.errors(include_url=False)]
    valid = {name: section for name in SECTIONS if (section := _section(name, merged)) is not None}
    found += contradictions(valid)
    # A missing key was written nowhere; it belongs to the file that should have held it.
    faults = [Fault(sources.get(key, layers[0].source), key, what) for key, what in found]
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
    for candidates in ([*own, *SECTIONS] if not section else own, known_keys()):
        names = {known.rpartition(".")[2]: known for known in candidates}
        close = difflib.get_close_matches(name, names, n=1)
        if close:
            return names[close[0]]
    return None


def describe(value: object) -> str:
    """A value as the user wrote it, cut to a readable length."""
    if isinstance(value, Mapping):
        return "a section of keys"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _string_keys(value: Any) -> Any:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else value


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _section(name: str, merged: Mapping[str, Any]) -> Any | None:
    try:
        return _adapter(SECTIONS[name]).validate_python(merged.get(name))
    except ValidationError:
        return None


def _translate(error: Mapping[str, Any]) -> tuple[str, str]:
    """Dotted key and plain words for one pydantic error."""
    location = error["loc"]
    key = ".".join(str(part) for part in location[:2])
    place = f"item {location[2] + 1} " if len(location) > 2 and isinstance(location[2], int) else ""
    if error["type"] == "unexpected_keyword_argument":
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
