"""The manual of the settings says what the schema does."""

from __future__ import annotations

import re

import pytest

from piflow_cli.errors import UsageError
from piflow_cli.presets.described import Setting, described, sections
from piflow_cli.presets.keys import known_keys
from piflow_cli.presets.resolve import from_dict, load, resolve, to_dict
from piflow_cli.presets.schema import SECTIONS
from piflow_cli.presets.yaml_files import read_yaml

SETTINGS = list(described())


def test_every_key_is_described_once_and_in_one_line():
    assert [setting.key for setting in SETTINGS] == list(known_keys())
    for setting in SETTINGS:
        assert re.fullmatch(r"[A-Z][^\n]*\.", setting.description), setting
    assert list(sections()) == list(SECTIONS) and all(text.endswith(".") for text in sections().values())


def refusal(key: str, value: object) -> str:
    """What is said of ``value`` itself; "" where nothing is."""
    try:
        resolve("flux-dev", None, [f"{key}={value}"], {})
    except UsageError as error:
        return error.message if "must be" in error.message or "since" in error.message else ""
    return ""


EDGES = {"at least": -1, "at most": 1, "above": 0, "below": 0}


# What a name or a budget may be is no number; test_extends.py tries names, test_budgets.py budgets.
@pytest.mark.parametrize(
    "setting",
    [one for one in SETTINGS if one.bounds and one.key not in ("name", "optimisation.budget")],
    ids=lambda one: one.key,
)
def test_bounds_are_where_they_are_said_to_be(setting: Setting):
    """The value beside a bound, on its outer side, is refused, and the bound itself is taken where it is included."""
    whole, found = (
        "whole" in setting.type or "width" in setting.type,
        re.findall(r"([a-z ]+?) (-?[\d,]+)(?!\d)", setting.bounds),
    )
    assert found
    for words, number in found:
        words = words.removeprefix("each ").strip()
        edge = int(number.replace(",", ""))
        outside = edge + EDGES[words] * (1 if whole else max(1e-3, edge * 1e-3))
        shape = {
            "list of two numbers": "[{0}, {0}]",
            "list of [width, height]": "[[{0}, {0}]]",
            "list of PATH or PATH:SCALE": "[a.safetensors:{0}]",
        }.get(setting.type, "{}")
        assert refusal(setting.key, shape.format(outside)), (words, outside)
        if EDGES[words]:
            assert not refusal(setting.key, shape.format(edge)), (words, edge)


def test_defaults_are_what_a_preset_has_that_says_nothing():
    data = to_dict(load("flux-dev"))
    bare = {key: value for key, value in data.items() if key not in SECTIONS}
    required = {setting.key for setting in SETTINGS if setting.default is None}
    for name in SECTIONS:
        bare[name] = {key: value for key, value in data[name].items() if f"{name}.{key}" in required}
    whole = to_dict(from_dict(bare, "bare"))
    for setting in SETTINGS:
        section, _, key = setting.key.rpartition(".")
        if setting.default is not None:
            assert (whole[section] if section else whole)[key] == read_yaml(setting.default, "")[0]
