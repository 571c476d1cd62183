"""The presets against the published recipes: tests/data/published_recipes.yaml
has both, and docs/pages/recipe.md shows them."""

from __future__ import annotations

import re

import pytest
import recipe_table
from recipe_table import Row, constant_rows, fields_of, flat, published, rows, variant_rows

from piflow_cli.presets.keys import known_keys
from piflow_cli.presets.resolve import available


@pytest.mark.parametrize("name", available())
def test_every_field_is_as_published_or_says_why_not(name: str) -> None:
    faults = [row.fault for row in rows(name, fields_of(name)) if row.fault is not None]
    assert not faults, f"mend the preset or {recipe_table.PUBLISHED.name}: " + "; ".join(faults)


@pytest.mark.parametrize("name", available())
def test_every_variant_is_as_published(name: str) -> None:
    faults = [f"{kind}: {row.fault}" for kind, row in variant_rows(name) if row.fault is not None]
    assert not faults


def test_the_constants_are_as_published() -> None:
    assert not [row.fault for row in constant_rows() if row.fault is not None]


def test_the_file_names_presets_keys_sets_and_sources_that_there_are() -> None:
    data = published()
    assert set(data["presets"]) == set(available()) and set(data["variants"]) <= set(available())
    keys = {*data["ours"], *(key for one in data["sets"].values() for key in one["values"])}
    keys |= {key for entry in data["presets"].values() for key in entry.get("differs", {})}
    keys |= {key for entry in data["presets"].values() for key in entry.get("ours", {})}
    # A preset may have no section of that name at all.
    assert keys <= {*known_keys(), "adapter"}
    sources = [one["source"] for one in [*data["sets"].values(), *data["constants"]]]
    sources += [one["source"] for entry in data["presets"].values() for one in entry.get("differs", {}).values()]
    assert set(sources) == set(data["sources"])
    used = {name for entry in data["presets"].values() for name in entry["sets"]}
    assert used | {name for kinds in data["variants"].values() for name in kinds.values()} == set(data["sets"])


@pytest.mark.parametrize(
    ("key", "value"),
    [("policy.nfe", 5), ("policy.temperature", 1.0), ("optimisation.batch_size", 256), ("output.keep_checkpoints", 1)],
)
def test_a_change_of_a_preset_is_noticed(key: str, value: object) -> None:
    fault = next(row.fault for row in rows("flux-dev", fields_of("flux-dev") | {key: value}) if row.key == key)
    assert fault is not None and key in fault


def test_a_field_that_nothing_is_said_of_is_noticed() -> None:
    (row,) = rows("flux-dev", {"imitation.novelty": 3})
    assert row.fault == "imitation.novelty is 3: nothing says what is published of it, or why it is so"


def test_a_change_of_what_is_published_is_noticed(monkeypatch) -> None:
    data = {
        **published(),
        "sets": {**published()["sets"], "gmflux": {"source": "gmflux", "values": {"policy.components": 16}}},
    }
    monkeypatch.setattr(recipe_table, "published", lambda: data)
    assert "policy.components is 8, and 16 is published" in [
        row.fault for row in rows("flux-dev", fields_of("flux-dev"))
    ]


def test_the_page_is_what_the_program_makes() -> None:
    assert recipe_table.TABLE.is_file() and recipe_table.TABLE.read_text(encoding="utf-8") == recipe_table.markdown(), (
        "docs/pages/recipe.md is of other presets: python tests/recipe_table.py"
    )


def test_the_page_shows_every_field_of_every_preset() -> None:
    """A field that all presets of a group share stands once, above their tables."""
    parts = recipe_table.markdown().split("\n## ")
    for name in available():
        title = next(title for title, pattern in recipe_table.GROUPS.items() if re.fullmatch(pattern, name))
        group = next(part for part in parts if part.startswith(f"{title}\n"))
        shown = group.split("\n### ")[0] + group.split(f"### {name}\n")[-1].split("\n### ")[0]
        assert not [key for key in fields_of(name) if f"| `{key}` |" not in shown]


def test_flattening_keeps_what_is_no_section() -> None:
    assert flat({"a": {"b": 1, "c": [2]}, "d": None}) == {"a.b": 1, "a.c": [2], "d": None}
    assert Row("a", 1, 1, "x", None).fault is None and Row("a", 1, None, None, "ours").fault is None
