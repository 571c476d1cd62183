"""The claims' program: what it calls a difference, and one small study from end to end."""

from __future__ import annotations

import json
from dataclasses import replace

import claims
import pytest
from claim_runs import growth
from claim_table import CLAIMS, Arm, Claim, Comparison
from claim_verdicts import FAILS, HOLDS, UNDECIDED, half_width, judge, verdict


def figures(**values: list[float]) -> dict[str, list[dict[str, float]]]:
    return {name: [{"to_data": value} for value in given] for name, given in values.items()}


LESS = Comparison("a", "b", "to_data")
ALIKE = Comparison("a", "b", "to_data", apart=False)


def test_the_margin_is_welch_s():
    # Equal spreads of three: 4 degrees of freedom, t = 2.776445.
    assert half_width([1.0, 2.0, 3.0], [11.0, 12.0, 13.0]) == pytest.approx(2.776445 * (2 / 3) ** 0.5, rel=1e-6)
    # One spread alone: 2 degrees of freedom, t = 4.302653.
    assert half_width([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]) == pytest.approx(4.302653 * (1 / 3) ** 0.5, rel=1e-6)
    assert half_width([1.0, 1.0], [2.0, 2.0]) == 0


@pytest.mark.parametrize(
    ("asked", "a", "b", "expected"),
    [
        (LESS, [0.10, 0.11, 0.12], [0.20, 0.21, 0.22], HOLDS),
        (LESS, [0.20, 0.21, 0.22], [0.10, 0.11, 0.12], FAILS),
        (LESS, [0.10, 0.20, 0.30], [0.11, 0.21, 0.31], UNDECIDED),
        (ALIKE, [1.00, 1.01, 1.02], [1.01, 1.02, 1.03], HOLDS),
        (ALIKE, [1.00, 1.01, 1.02], [2.00, 2.01, 2.02], FAILS),
        (ALIKE, [1.00, 1.50, 2.00], [1.00, 1.50, 2.00], UNDECIDED),
    ],
)
def test_a_difference_counts_where_its_interval_is_clear(asked, a, b, expected):
    found = judge(asked, figures(a=a, b=b))
    assert found.verdict == expected
    assert found.difference == pytest.approx(sum(a) / 3 - sum(b) / 3)


def test_a_claim_holds_where_all_of_it_does():
    holds, fails, open_ = (
        judge(LESS, figures(a=a, b=[0.2, 0.2, 0.2])) for a in ([0.1] * 3, [0.3] * 3, [0.1, 0.2, 0.3])
    )
    assert verdict([holds, holds]) == HOLDS
    assert verdict([holds, open_]) == UNDECIDED
    assert verdict([fails, open_]) == FAILS
    assert verdict([fails, holds]) == "holds in part"


def test_an_error_that_grows_as_the_square_has_growth_two():
    raws = [1 - part / 32 for part in range(33)]
    assert growth(raws, [3 * (1 - raw) ** 2 for raw in raws]) == pytest.approx(2)


def test_every_claim_compares_students_that_it_has():
    assert len({claim.number for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        used = {name for one in claim.comparisons for name in (one.better, one.worse)}
        assert used <= claim.arms.keys()


@pytest.mark.long
def test_a_small_study_is_made_once(tmp_path, monkeypatch, capsys):
    arms = {"mixture": Arm(), "cold": Arm(sampling={"temperature": 0.3})}
    small = Claim(1, "Title", "here", "says", arms, (Comparison("mixture", "cold", "to_data"),))
    monkeypatch.setattr(claims, "CLAIMS", (small, replace(small, number=2)))
    file = tmp_path / "claims.json"
    given = ["--runs", str(tmp_path / "runs"), "--seeds", "0,1", "--iterations", "2", "--images", "20"]
    claims.main([*given, "--json", str(file)])
    record = json.loads(file.read_text())
    assert [one["number"] for one in record["claims"]] == [1, 2] and record["seeds"] == [0, 1]
    # Both students are one run, sampled in two ways, on two seeds.
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert len(list((tmp_path / "runs").glob("*/measured-*.json"))) == 4
    first = record["claims"][0]["arms"]["mixture"]["figures"]
    assert len(first) == 2 and first[0]["to_data"] != first[1]["to_data"]
    # What was measured is not measured again.
    monkeypatch.setattr("claim_runs.Study._distil", None)
    claims.main([*given, "--only", "2"])
    assert "Title" in capsys.readouterr().out
