"""The program of ideas: equal cost, rows that say who wins, and one small study from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import claims
import claims_page
import ideas
import pytest

from piflow_cli.training.settings import network_evaluations


@pytest.mark.parametrize("idea", ideas.IDEAS, ids=lambda idea: idea.name)
def test_every_idea_costs_as_much_as_the_published_recipe(idea: ideas.Idea) -> None:
    """As near as whole iterations come: of the longest one has 1 % of them."""
    own = ideas.resolved(idea.arm.settings)
    assert own.optimisation.iterations * network_evaluations(own) == pytest.approx(ideas.cost(), rel=0.01)
    # One thing is tried at a time, the published recipe but for what the idea says.
    assert {name.partition("=")[0] for name in idea.arm.settings} - {"optimisation.iterations"} == {
        name.partition("=")[0] for name in idea.settings
    }


def test_names_are_told_apart() -> None:
    assert len({idea.name for idea in ideas.IDEAS}) == len({idea.settings for idea in ideas.IDEAS}) == len(ideas.IDEAS)
    assert ideas.IDEAS[0] == ideas.Idea(ideas.BASE)


def found(name: str, *distances: float) -> ideas.Found:
    idea = next(idea for idea in ideas.IDEAS if idea.name == name)
    figures = [
        {"to_data": value, "by_classifier": 1 - value, "to_teacher": 1.0, "squared_distance": 2.0}
        for value in distances
    ]
    return ideas.Found(idea, idea.arm, figures)


def test_the_page_has_winners_and_losers(tmp_path: Path) -> None:
    base = found(ideas.BASE, 0.2, 0.201, 0.202)
    rows = [
        ideas.row(found("best", 0.1, 0.101, 0.102), base),
        ideas.row(found("four states", 0.3, 0.301, 0.302), base),
        ideas.row(found("one state", 0.1, 0.2, 0.3), base),
    ]
    facts = {"device": "x86_64 CPU", "versions": {"torch": "2.9"}, "date": "2026-01-02", "images": 1797}
    file = tmp_path / "ideas.json"
    file.write_text(json.dumps({"teacher": "digits", **facts, "seeds": [0, 1, 2], "evaluations": 128000, "rows": rows}))
    page = claims_page.claims("<!-- table: claims -->\n<!-- end -->\n<!-- table: ideas -->\n<!-- end -->\n", [], file)
    # Welch's half width of equal spreads is 2.776 * 0.001 * sqrt(2 / 3).
    assert (
        "| best | `recipe=best` | 0.101 | 0.201 | -0.1 ± 0.0023 | wins | 0.899 | 0.799 | +0.1 ± 0.0023 | loses |"
        in page
    )
    assert (
        "| four states | `imitation.states=4` `optimisation.iterations=143` | 0.301 | 0.201 | +0.1 ± 0.0023 | loses |"
        in page
    )
    assert "| undecided |" in page and "128,000 network evaluations each" in page


@pytest.mark.parametrize("program", [ideas, claims], ids=lambda program: program.__name__)
def test_what_there_is_not_is_not_left_out_in_silence(program, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        program.main(["--runs", str(tmp_path), "--only", "bset"])
    assert "--only bset: there is none; known: " in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_small_study_has_a_row_for_each_idea(tmp_path: Path) -> None:
    few = ["--seeds", "0,1", "--iterations", "2", "--images", "16", "--only", "best"]
    ideas.main(["--runs", str(tmp_path / "runs"), *few, "--json", str(tmp_path / "ideas.json")])
    record = json.loads((tmp_path / "ideas.json").read_text())
    assert [row["idea"] for row in record["rows"]] == ["best"] and record["seeds"] == [0, 1]
    assert len(record["rows"][0]["figures"]) == 2 and len(list((tmp_path / "runs").iterdir())) == 4
