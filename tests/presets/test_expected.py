"""What a plan says of the quality to come."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from piflow_cli.presets.expected import TABLE, expected
from piflow_cli.presets.folders import beside_presets
from piflow_cli.presets.resolve import resolve
from piflow_cli.presets.schema import Preset

ROWS = [{"evaluations": 100, "values": [0.3, 0.4, 0.5]}, {"evaluations": 400, "values": [0.2, 0.2, 0.2]}]


def digits(*assignments: str) -> Preset:
    return resolve("digits", None, ["optimisation.schedule=cosine", *assignments], {})


@pytest.fixture
def table(tmp_path, monkeypatch) -> None:
    content = {"what": "distance", "preset": "digits", "schedule": "cosine", "rows": ROWS}
    (tmp_path / TABLE).write_text(json.dumps(content))
    monkeypatch.setattr("piflow_cli.presets.expected.beside_presets", lambda name: tmp_path)


@pytest.mark.parametrize("evaluations, low, high", [(100, 0.2, 0.6), (400, 0.2, 0.2), (200, 0.2, 0.4)])
def test_it_is_two_deviations_of_the_seeds_and_between_two_rows_their_middle_by_doublings(
    table, evaluations: int, low: float, high: float
) -> None:
    found = expected(digits(), evaluations)
    assert found is not None and (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert str(found).startswith("a distance of 0.2 to ")


def test_it_holds_for_other_lengths_batches_and_seeds(table) -> None:
    others = ("optimisation.iterations=7", "optimisation.batch_size=8", "optimisation.warmup=3", "seed=5")
    assert expected(digits(*others), 100) == expected(digits(), 100)


@pytest.mark.parametrize("evaluations", [99, 401])
def test_nothing_is_said_of_what_lies_outside_the_table(table, evaluations: int) -> None:
    assert expected(digits(), evaluations) is None


@pytest.mark.parametrize(
    "change",
    [
        "optimisation.schedule=constant",
        "policy.nfe=2",
        "optimisation.learning_rate=0.5",
        "imitation.window=1",
        "teacher.guidance=2.0",
        "data.images=others.safetensors",
    ],
)
def test_nothing_is_said_of_settings_that_were_not_measured(table, change: str) -> None:
    assert expected(digits(change), 100) is None


def test_nothing_is_said_of_a_teacher_without_a_table(tmp_path) -> None:
    preset = digits()
    elsewhere = replace(preset, teacher=replace(preset.teacher, base=str(tmp_path)))
    assert expected(elsewhere, 100) is None
    assert expected(resolve("flux-dev", None, [], {}), 100) is None


def test_the_table_that_ships_is_of_several_seeds_and_more_evaluations_are_better() -> None:
    rows = json.loads((beside_presets("digits") / TABLE).read_text(encoding="utf-8"))["rows"]
    assert all(len(row["values"]) >= 3 for row in rows)
    found = [expected(digits(), row["evaluations"]) for row in rows]
    assert all(band is not None for band in found)
    middles = [band.low + band.high for band in found if band is not None]
    assert middles == sorted(middles, reverse=True)
