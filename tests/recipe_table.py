"""Every field of every shipped preset beside what is published of it: `python
tests/recipe_table.py` writes docs/pages/recipe.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from piflow_cli.presets.resolve import available, load, resolve, to_dict
from piflow_cli.presets.schema import POLICY_KINDS

PUBLISHED = Path(__file__).parent / "data" / "published_recipes.yaml"
TABLE = Path(__file__).parent.parent / "docs" / "pages" / "recipe.md"
# They name the preset itself.
LABELS = ("name", "summary")
GROUPS = {
    "FLUX.1, FLUX.1 Kontext and Qwen-Image": "(flux-dev|qwen-image)(-8nfe|-24gb|-dx|-2512|-edit-2511)?|flux-kontext",
    "FLUX.1 and Qwen-Image, momentum policies (ArcFlow)": "(flux-dev|qwen-image)-momentum",
    "Chroma, ERNIE-Image and Sana": "chroma|ernie-image|sana",
    "FLUX.2, FLUX.3, Krea 2, LongCat-Image, Ovis-Image and Z-Image": "flux[23]-.*|krea2|(longcat|ovis)-image|z-image.*",
    "Stable Diffusion": "sd.*",
    "Kandinsky 6, LTX-Video and Wan": "kandinsky6|ltx-video|wan.*",
    "ImageNet": "imagenet.*",
    "Emoji": "emoji.*",
    "Digits": "digits",
}


@dataclass(frozen=True)
class Row:
    """A field: its ``value`` in the preset, what is ``published`` (None: nothing),
    where, and why the preset has another value."""

    key: str
    value: Any
    published: Any
    source: str | None
    why: str | None

    @property
    def fault(self) -> str | None:
        """What is wrong with it: a published value that the preset lacks without
        a reason, or a reason for no difference."""
        same = self.published == self.value
        if self.source is None:
            return (
                None
                if self.why is not None
                else f"{self.key} is {self.value!r}: nothing says what is published of it, or why it is so"
            )
        if same and self.why is not None:
            return f"{self.key} is {self.value!r}, as published, and is said to differ"
        return (
            None
            if same or self.why is not None
            else f"{self.key} is {self.value!r}, and {self.published!r} is published"
        )

    def cells(self) -> list[str]:
        """Field, value, published value, and where it stands or why the preset differs."""
        if self.source is None:
            return [f"`{self.key}`", _text(self.value), "", f"{self.why}"]
        said = [self.source, *([] if self.why is None else [self.why])]
        return [f"`{self.key}`", _text(self.value), _text(self.published), ": ".join(said)]


@cache
def published() -> Mapping[str, Any]:
    """The data file."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def flat(data: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


def fields_of(name: str) -> dict[str, Any]:
    """Every field of a shipped preset by dotted key, as it is resolved."""
    return {key: value for key, value in flat(to_dict(load(name))).items() if key not in LABELS and value != {}}


def rows(name: str, values: Mapping[str, Any]) -> list[Row]:
    """The fields ``values`` of the preset ``name``, each beside what the data file has of it."""
    entry = published()["presets"][name]
    told = _told(entry["sets"])
    differs = entry["differs"] if "differs" in entry else {}
    ours = published()["ours"] | (entry["ours"] if "ours" in entry else {})
    otherwise = entry["otherwise"] if "otherwise" in entry else None
    found = []
    for key, value in values.items():
        if key in differs:
            found.append(Row(key, value, differs[key]["published"], differs[key]["source"], differs[key]["why"]))
        elif key in told:
            found.append(Row(key, value, *told[key], None))
        else:
            found.append(Row(key, value, None, None, ours.get(key, otherwise)))
    return found


def variant_rows(name: str) -> Iterator[tuple[str, Row]]:
    """Every policy but the preset's own, and the fields in which policies differ."""
    own, sets = fields_of(name), published()["variants"].get(name, {})
    others = {
        kind: flat(to_dict(resolve(name, None, [], {"policy.kind": kind})))
        for kind in POLICY_KINDS
        if kind != own["policy.kind"]
    }
    keys = [key for key in own if key != "policy.kind" and any(other[key] != own[key] for other in others.values())]
    for kind, values in others.items():
        told = _told([sets[kind]]) if kind in sets else {}
        for key in keys:
            yield (
                kind,
                Row(key, values[key], *(told[key] if key in told else (None, None)), None if key in told else "ours"),
            )


def constant_rows() -> list[Row]:
    """Figures of the recipe that stand in the code."""
    found = []
    for constant in published()["constants"]:
        module, _, path = constant["at"].partition(":")
        value: Any = import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
        found.append(
            Row(
                constant["what"],
                list(value) if isinstance(value, tuple) else value,
                constant["published"],
                constant["source"],
                None,
            )
        )
    return found


def markdown() -> str:
    """The whole page."""
    parts = [
        "# The published recipes beside the presets",
        (
            "Made by `python tests/recipe_table.py` from `tests/data/published_recipes.yaml` and the presets, which a"
            " test compares.\nWhere a cell is empty nothing is published, and the last column says why the preset has"
            " its value."
        ),
    ]
    for title, pattern in GROUPS.items():
        names = [name for name in available() if re.fullmatch(pattern, name)]
        tables = {name: rows(name, fields_of(name)) for name in names}
        common = [row for row in tables[names[0]] if all(row in table for table in tables.values())]
        alone = len(names) == 1
        parts += [
            f"## {title}",
            *([] if alone else [f"In all of {', '.join(f'`{name}`' for name in names)}:"]),
            _table(common),
        ]
        for name in [] if alone else names:
            parts += [f"### {name}", _table(row for row in tables[name] if row not in common)]
    variants = [[f"`{name}`", f"`{kind}`", *row.cells()] for name in available() for kind, row in variant_rows(name)]
    parts += ["## Variants", "What `--policy` changes.", _lines(["preset", "policy", *HEADER], variants)]
    parts += [
        "## In the code",
        _lines(["figure", *HEADER[1:]], [[row.key, *row.cells()[1:]] for row in constant_rows()]),
    ]
    parts += ["## Sources", "\n".join(f"- {name}: `{text}`" for name, text in published()["sources"].items())]
    return "\n\n".join(parts) + "\n"


HEADER = ["field", "piflow", "published", "where, or why not"]


def _told(sets: Iterable[str]) -> dict[str, tuple[Any, str]]:
    """Published value and source by key; a later set over an earlier."""
    found: dict[str, tuple[Any, str]] = {}
    for name in sets:
        one = published()["sets"][name]
        found |= {key: (value, one["source"]) for key, value in one["values"].items()}
    return found


def _table(found: Iterable[Row]) -> str:
    return _lines(HEADER, [row.cells() for row in found])


def _lines(header: list[str], cells: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *cells])


def _text(value: Any) -> str:
    if value is None or value == []:
        return "none"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(markdown(), encoding="utf-8")
