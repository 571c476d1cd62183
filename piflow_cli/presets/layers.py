"""Values of settings from several places, one layer each, and the union of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from piflow_cli.presets.schema import ALTERNATIVES, SECTIONS


@dataclass(frozen=True)
class Layer:
    """Values that count equally, and the name of their place in messages: a file, or --set as it was typed.

    ``options``: the place of each dotted key, where options of their own give them.
    """

    source: str
    values: Mapping[str, Any]
    options: Mapping[str, str] = field(default_factory=dict)

    def place(self, key: str) -> str:
        """Where a dotted key was written."""
        return self.options.get(key, self.source)


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
            if isinstance(value, Mapping) and section in SECTIONS and merged.get(section) is not None:
                # A section that is no mapping stays as it is, so that this is what gets reported.
                if isinstance(merged[section], Mapping):
                    overruled = _overruled(section, value)
                    merged[section] = {
                        name: item for name, item in merged[section].items() if name not in overruled
                    } | value
            else:
                merged[section] = value
                sources[section] = layer.place(section)
            if isinstance(value, Mapping):
                sources.update({key: layer.place(key) for key in (f"{section}.{name}" for name in value)})
    return merged, sources


def _overruled(section: str, values: Mapping[str, Any]) -> set[str]:
    """Keys of earlier layers that no longer count, because ``values`` give another key of their group."""
    groups = ALTERNATIVES.get(section, ())
    return {name for group in groups if any(values.get(key) not in (None, [], ()) for key in group) for name in group}
