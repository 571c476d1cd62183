"""Recipes: what `--recipe` changes, who has one, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from piflow_cli.errors import UsageError
from piflow_cli.presets.folders import presets_root
from piflow_cli.presets.resolve import available, flat, from_dict, load, resolve, to_dict
from piflow_cli.presets.yaml_files import write_yaml
from piflow_cli.students.naming import run_folder

PAIR = ("published", "best")
WITH_RECIPES = [name for name in available() if "recipes" in (presets_root() / f"{name}.yaml").read_text()]


def under(name: str | Path, recipe: str | None, *assignments: str, policy: str | None = None):
    return resolve(name, None, list(assignments), {"recipe": recipe, "policy.kind": policy})


def written(folder: Path, **values: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", **values}))
    return path


def refusal(*given: object) -> str:
    with pytest.raises(UsageError) as caught:
        under(*given)
    assert caught.value.hint
    return f"{caught.value.message}\n{caught.value.hint}"


def test_the_teachers_that_were_measured_have_one() -> None:
    assert WITH_RECIPES == ["digits", "emoji"]


@pytest.mark.parametrize("name", WITH_RECIPES)
@pytest.mark.parametrize("policy", [None, "dx", "momentum"])
def test_the_best_differs_from_the_published_in_what_is_written_there_alone(name: str, policy: str | None) -> None:
    published, best = (flat(to_dict(under(name, recipe, policy=policy))) for recipe in (None, "best"))
    told = flat(yaml.safe_load((presets_root() / f"{name}.yaml").read_text())["recipes"]["best"])
    assert {key: value for key, value in best.items() if published[key] != value} == {**told, "recipe": "best"}


def test_an_option_and_an_assignment_stand_above_a_recipe() -> None:
    assert under("digits", "best", "imitation.energy=3").imitation.energy == 3
    assert under("digits", None, "recipe=best").imitation.energy == under("digits", "best").imitation.energy > 0
    assert under("digits", "published", "recipe=best") == load("digits")


def test_a_preset_has_the_recipes_of_the_one_it_extends(tmp_path) -> None:
    path = written(tmp_path, extends="digits", recipes={"best": {"optimisation": {"warmup": 7}}})
    best = under(path, "best")
    assert (best.imitation.energy, best.optimisation.warmup) == (under("digits", "best").imitation.energy, 7)
    assert under(path, None).optimisation.warmup == load("digits").optimisation.warmup
    # One may be its own, and the published one is a word away.
    path = written(tmp_path, extends="digits", recipe="best")
    assert load(path).imitation.energy > 0 == under(path, "published").imitation.energy


def test_a_preset_without_it_is_not_taken_for_one_that_has_it() -> None:
    said = refusal("flux-dev", "best")
    assert "this preset has no recipe but published" in said and said.endswith("type --recipe published")


def test_the_settings_of_a_run_are_those_of_its_recipe(tmp_path) -> None:
    best = under("digits", "best")
    assert from_dict(to_dict(best), "a run") == best
    path = tmp_path / "run.yaml"
    path.write_text(write_yaml(to_dict(best)))
    assert load(path) == under(path, "best") == best
    assert "this preset has no recipe but best" in refusal(path, "published")


def test_runs_of_two_recipes_have_two_folders() -> None:
    assert run_folder(load("digits"), "digits") == Path("runs/digits")
    assert run_folder(under("digits", "best"), "digits") == Path("runs/digits-best")


@pytest.mark.parametrize(
    ("recipes", "complaint"),
    [
        ({"best": {"imitation": {"enrgy": 1.0}}}, "recipes.best.imitation.enrgy: unknown key"),
        ({"best": {"policy": {"nfe": 0}}}, "recipes.best.policy.nfe: must be at least 1, not 0"),
        ({"best": {"imitation": {"data_free": True}}}, "is a distance to noised data, and imitation.data_free is true"),
        ({"best": 3}, "recipes.best: must hold sections of keys"),
        ({"better": {}}, "recipes.better: unknown recipe; known: published, best"),
        ({"published": {}}, "recipes.published: is what the sections themselves hold"),
        ([], "recipes: must be a section per recipe"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said_whether_or_not_it_is_chosen(tmp_path, recipes, complaint) -> None:
    energy = {"imitation": {"energy": 1.0}}
    path = written(tmp_path, extends="digits", recipes=recipes, **energy)
    assert complaint in refusal(path, None)


def test_energy_needs_pictures(tmp_path) -> None:
    assert "imitation.energy" in refusal("digits", "best", "imitation.data_free=true")
    assert "bring none: give 0" in refusal("digits", None, "imitation.energy=1", "data.labels=uniform")


def test_a_plan_says_what_the_recipe_adds(cli) -> None:
    plans = [cli("distill", "--teacher", "digits", "--recipe", name, "--dry-run", "--json") for name in PAIR]
    published, best = (json.loads(plan.out)["imitation"] for plan in plans)
    imitation = under("digits", "best").imitation
    weights = {"energy": imitation.energy, "moments": imitation.moments}
    told = {name: f"{weight:g} times the distance to noised data" for name, weight in weights.items()}
    assert best == {**published, **told}
