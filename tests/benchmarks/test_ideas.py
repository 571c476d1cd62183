"""The program of ideas: equal cost, rows that say who wins, and one small study from end to end."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import claims
import claims_page
import ideas
import ideas_emoji
import pytest
from claim_runs import Study
from claim_table import Arm
from emoji_data import COLOURS, write_squares
from idea_table import BASE, FREE, IDEAS, Idea, cost, resolved
from PIL import Image
from study_file import StudyFile

from piflow_cli.training.settings import network_evaluations

ALL = (*IDEAS, *ideas_emoji.IDEAS)


def spent(arm: Arm, teacher: str) -> int:
    own = resolved((f"policy.nfe={arm.nfe}", *arm.settings), teacher)
    before = 0 if arm.start is None else spent(arm.start, teacher)
    return before + own.optimisation.iterations * network_evaluations(own)


@pytest.mark.parametrize("idea", ALL, ids=lambda idea: f"{idea.name}, {idea.teacher}")
def test_every_idea_costs_as_much_as_the_published_recipe(idea: Idea) -> None:
    """As near as whole iterations come: of the longest one has 1 % of them."""
    assert spent(idea.arm, idea.teacher) + idea.besides == pytest.approx(cost(idea.teacher), rel=0.01)
    # One thing is tried at a time, the published recipe but for what the idea says.
    assert {name.partition("=")[0] for name in idea.arm.settings} - {"optimisation.iterations"} == {
        name.partition("=")[0] for name in idea.settings
    }


@pytest.mark.parametrize("table", [IDEAS, ideas_emoji.IDEAS], ids=["digits", "emoji"])
def test_names_are_told_apart(table: Sequence[Idea]) -> None:
    assert len({idea.name for idea in table}) == len({tuple(idea.told) for idea in table}) == len(table)
    # --only has commas between them.
    assert not any("," in idea.name for idea in table)


def test_the_first_row_is_the_recipe_itself() -> None:
    assert IDEAS[0] == Idea(BASE)


def test_every_idea_is_held_against_the_recipe_at_as_many_evaluations() -> None:
    by_name = {idea.name: idea for idea in IDEAS}
    for idea in IDEAS:
        base = by_name[idea.base]
        free = [*FREE, f"optimisation.iterations={cost() // base.evaluations}"] if FREE[0] in idea.settings else []
        assert base.told == ([] if base.nfe == 1 else [f"--nfe {base.nfe}"]) + free
        assert base.nfe == (idea.nfe if idea.steps is None else idea.steps)


def test_ideas_of_emoji_are_held_against_as_many_evaluations_without_pictures() -> None:
    by_name = {idea.name: idea for idea in ideas_emoji.IDEAS}
    for idea in ideas_emoji.IDEAS:
        base = by_name[idea.base]
        assert base.nfe == (idea.nfe if idea.steps is None else idea.steps)
        # The batch alone is not the preset's, where trajectories have fewer segments.
        assert {setting.partition("=")[0] for setting in base.settings} <= {
            "optimisation.batch_size",
            "optimisation.device_batch_size",
        }


def test_students_of_pictures_get_those_of_the_prompts(tmp_path: Path) -> None:
    write_squares(tmp_path)
    study = ideas_emoji.PicturedStudy(tmp_path)
    arms = {idea.name: idea.arm for idea in ideas_emoji.IDEAS}
    study.prepare(arms.values())
    written = {file.read_text(): file.with_suffix(".png") for file in study.pictures.glob("*.txt")}
    assert set(written) == {f"{colour} square" for colour in COLOURS}
    for colour, rgb in COLOURS.items():
        assert Image.open(written[f"{colour} square"]).getpixel((32, 32)) == rgb
    pictures = ("--data", str(study.pictures))
    assert study.teacher_options(arms["energy 24 and moments 12"])[-2:] == pictures
    assert study.teacher_options(arms["published at 2 NFE"]) == ("--teacher", "emoji")


def test_runs_of_a_variant_and_of_another_start_have_a_folder_of_their_own(tmp_path: Path) -> None:
    arms = [Arm(), Arm(variant="through"), Arm(variant="x0"), Arm(start=Arm()), Arm(start=Arm(nfe=2))]
    assert len({Study(tmp_path).folder(arm, 0) for arm in arms}) == len(arms)
    # That of a student without either has been what it is since there were claims.
    assert Study(tmp_path).folder(Arm(), 0).name == "80524ad43f1a"


def found(name: str, *distances: float) -> ideas.Found:
    idea = next(idea for idea in IDEAS if idea.name == name)
    figures = [
        {"to_data": value, "by_classifier": 1 - value, "to_teacher": 1.0, "squared_distance": 2.0}
        for value in distances
    ]
    return ideas.Found(idea, range(len(distances)), figures)


def test_the_page_has_winners_and_losers(tmp_path: Path) -> None:
    base = found(BASE, 0.2, 0.201, 0.202)
    rows = [
        ideas.row(found("best", 0.1, 0.101, 0.102), base),
        ideas.row(found("four states", 0.3, 0.301, 0.302), base),
        ideas.row(found("one state", 0.1, 0.2, 0.3), base),
    ]
    facts = {"device": "x86_64 CPU", "versions": {"torch": "2.9"}, "date": "2026-01-02", "images": 1797}
    file = tmp_path / "ideas.json"
    file.write_text(json.dumps({"teacher": "digits", **facts, "evaluations": 128000, "rows": rows}))
    page = claims_page.claims(
        "<!-- table: claims -->\n<!-- end -->\n<!-- table: ideas -->\n<!-- end -->\n", [], {"ideas": file}
    )
    # Welch's half width of equal spreads is 2.776 * 0.001 * sqrt(2 / 3).
    assert (
        "| best | `recipe=best` | 3 | 0.101 | 0.201 | -0.1 ± 0.0023 | wins | 0.899 | 0.799 | +0.1 ± 0.0023 | loses |"
        in page
    )
    fewer = "`imitation.states=4` `optimisation.iterations=143`"
    assert f"| four states | {fewer} | 3 | 0.301 | 0.201 | +0.1 ± 0.0023 | loses |" in page
    assert "| undecided |" in page and "128,000 network evaluations each" in page


@pytest.mark.parametrize("program", [ideas, claims], ids=lambda program: program.__name__)
def test_what_there_is_not_is_not_left_out_in_silence(program, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        program.main(["--runs", str(tmp_path), "--only", "bset"])
    assert "--only bset: there is none; known: " in capsys.readouterr().err and not list(tmp_path.iterdir())


ROWS = [{"idea": "energy 8", "settings": ["imitation.energy=8"]}, {"idea": "best", "settings": ["recipe=best"]}]
HEAD = {"benchmark": "ideas", "date": "2026-01-02", "images": 20}


def study_file(path: Path | None, **head) -> StudyFile:
    return StudyFile(path, HEAD | head, "rows", ideas.named, [ideas.named(ideas.told(idea)) for idea in IDEAS])


def test_a_study_measured_in_parts_keeps_what_is_not_measured_anew(tmp_path: Path) -> None:
    file = study_file(tmp_path / "ideas.json")
    file.write(ROWS)
    later = study_file(file.path, date="2026-01-03").keeping(argparse.ArgumentParser(), [ideas.named(ROWS[1])])
    assert list(later.kept) == [ROWS[0]]
    later.write([ROWS[1] | {"iterations": 7}])
    # In the order of the table, with the day of the last part.
    assert json.loads((tmp_path / "ideas.json").read_text()) == {
        **HEAD,
        "date": "2026-01-03",
        "rows": [ROWS[1] | {"iterations": 7}, ROWS[0]],
    }


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (None, "--keep needs --json with a file that is there"),
        ({**HEAD, "claims": []}, "has no rows"),
        ({**HEAD, "images": 30, "device": "cuda", "rows": []}, "differs in images, device"),
        ({**HEAD, "rows": [{"idea": "best", "settings": ["imitation.energy=3"]}]}, "best imitation.energy=3"),
    ],
)
def test_figures_of_another_study_are_not_kept(there, said, tmp_path: Path, capsys) -> None:
    path = tmp_path / "ideas.json"
    if there is not None:
        path.write_text(json.dumps(there))
    with pytest.raises(SystemExit):
        study_file(path).keeping(argparse.ArgumentParser(), [])
    assert said in capsys.readouterr().err


@pytest.mark.long
def test_a_small_study_has_a_row_for_each_idea(tmp_path: Path) -> None:
    few = ["--seeds", "0,1", "--iterations", "2", "--images", "16", "--only", "best"]
    ideas.main(["--runs", str(tmp_path / "runs"), *few, "--json", str(tmp_path / "ideas.json")])
    record = json.loads((tmp_path / "ideas.json").read_text())
    assert [row["idea"] for row in record["rows"]] == ["best"] and record["rows"][0]["seeds"] == [0, 1]
    assert len(record["rows"][0]["figures"]) == 2 and len(list((tmp_path / "runs").glob("*/"))) == 4
