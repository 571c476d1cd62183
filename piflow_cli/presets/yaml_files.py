"""YAML as presets and runs are written: safe, with every repeated key found, and no larger than a preset can be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from typing import Any

import yaml

from piflow_cli.console import plain
from piflow_cli.errors import UsageError, first_line
from piflow_cli.presets.faults import Fault

MOST_VALUES = 100_000  # a preset has some eighty


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

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _expanded_size(node, {})
        return node


def _expanded_size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """The number of values in ``node`` once its aliases are followed.

    Raises YAMLError where no preset has so many: a file of a few lines can ask for more than fits in memory.
    """
    if id(node) in known:
        if (size := known[id(node)]) is None:
            raise yaml.YAMLError("an alias stands inside of what it stands for")
        return size
    known[id(node)] = None
    inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    size = 1 if isinstance(node, yaml.ScalarNode) else 1 + sum(_expanded_size(part, known) for part in inner)
    if size > MOST_VALUES:
        raise yaml.YAMLError(f"its aliases come to more than {MOST_VALUES:,} values")
    known[id(node)] = size
    return size


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
    try:
        data, repeated = _parsed(text)
        return deepcopy(data), [Fault(source, "", what) for what in repeated]
    except yaml.MarkedYAMLError as exc:
        lines = text.splitlines()
        if exc.problem_mark is None or len(lines) < 2:
            raise UsageError(f"{source}: not valid YAML: {exc.problem}", "mend it and try again") from exc
        # YAML reports a bracket that stays open behind the last line.
        line = min(exc.problem_mark.line + 1, len(lines))
        raise UsageError(f"{source}:{line}: not valid YAML: {exc.problem}", "mend that line and try again") from exc
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as exc:
        deep = isinstance(exc, RecursionError)
        reason = "nested too deeply" if deep else first_line(exc)
        raise UsageError(
            f"{source}: not valid YAML: {reason}", "write `section:` lines with `key: value` below"
        ) from exc


@lru_cache(maxsize=64)
def _parsed(text: bytes | str) -> tuple[Any, tuple[str, ...]]:
    """The content of a YAML text, and a line on each key repeated in it.

    Kept, since a command reads the shipped presets several times where it looks for the one that is meant.
    """
    loader = PresetLoader(text)
    try:
        return loader.get_single_data(), tuple(loader.repeated)
    finally:
        loader.dispose()


def yaml_word(value: object) -> str:
    """A value as it stands behind a key, on one line."""
    text = yaml.dump(plain(value), Dumper=PresetDumper, default_flow_style=True, width=float("inf"))
    return text.removesuffix("...\n").rstrip("\n")


def describe(value: object) -> str:
    """A value as the user wrote it, cut to a readable length."""
    if isinstance(value, Mapping):
        return "a section of keys"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
