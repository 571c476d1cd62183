"""A preset says only what differs from another that it extends."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.errors import UsageError
from piflow_cli.presets.bounds import Bound
from piflow_cli.presets.preset_files import DEEPEST
from piflow_cli.presets.resolve import available, from_dict, load, presets_root, resolve, to_dict
from piflow_cli.presets.yaml_files import write_yaml

DIGESTS = Path(__file__).parent.parent / "data" / "preset_digests.json"


def written(folder: Path, name: str = "mine.yaml", **values: object) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"name": path.stem, "summary": "a test", **values}))
    return path


def refusal(path: Path, *assignments: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve(path, None, list(assignments), {})
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("name", available())
def test_every_shipped_preset_is_what_it_was_when_its_file_held_it_all(name):
    """The digests are of the presets before any extended another (commit b614343), under each policy.

    Who means to change a preset changes them.
    """
    for kind, digest in json.loads(DIGESTS.read_text())[name].items():
        data = to_dict(resolve(name, None, [], {"policy.kind": kind}))
        assert hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16] == digest, kind


def pairs(values: object, before: str = "") -> set[tuple[str, str]]:
    if not isinstance(values, dict):
        return {(before, json.dumps(values))}
    return {pair for key, value in values.items() for pair in pairs(value, f"{before}.{key}")}


@pytest.mark.parametrize("name", available())
def test_a_shipped_preset_repeats_nothing_of_what_it_extends(name):
    text = (presets_root() / f"{name}.yaml").read_text()
    own = yaml.safe_load(text)
    if "extends" in own:
        # These stand where they have an effect, or beside what they are told apart from.
        repeated = pairs(own) & pairs(to_dict(load(own["extends"])))
        shown = {".optimisation.gamma_learning_rate", ".data.images", ".teacher.license", ".teacher.guidance"}
        assert {key for key, _ in repeated} <= shown
        assert len(text.splitlines()) < 30


def test_the_nearer_file_counts_key_by_key(tmp_path):
    far = written(tmp_path, "far.yaml", extends="digits", policy={"nfe": 2, "substeps": 64}, seed=3)
    near = written(tmp_path, "near.yaml", extends="./far.yaml", policy={"nfe": 4}, imitation={"window": 2})
    preset, digits = load(near), load("digits")
    assert (preset.name, preset.seed, preset.policy.nfe, preset.policy.substeps) == ("near", 3, 4, 64)
    assert (load(far).imitation, preset.imitation.window) == (digits.imitation, 2)
    assert (preset.teacher, preset.data, preset.optimisation) == (digits.teacher, digits.data, digits.optimisation)
    config = written(tmp_path, "config.yaml")
    config.write_text("policy: {nfe: 8}\n")
    assert resolve(near, config, ["seed=5"], {"policy.substeps": 32}).policy.nfe == 8


@given(st.sampled_from(available()), st.data())
def test_however_a_preset_is_cut_into_two_files_it_is_the_same(tmp_path_factory, name, data):
    """Every key is in the far file, the near one or both, where the near one counts; variants are left out of it."""
    folder, whole = tmp_path_factory.mktemp("cut"), load(name)
    files = {"far": {}, "near": {"extends": "far.yaml"}}
    for section, values in to_dict(whole).items():
        if not isinstance(values, dict):
            files["near"][section] = values
            continue
        for key, value in values.items():
            where = data.draw(st.sampled_from(["far", "near", "both"]))
            for file in files:
                if where in (file, "both"):
                    overruled = where == "both" and file == "far" and isinstance(value, int)
                    files[file].setdefault(section, {})[key] = 1 if overruled else value
    for file, content in files.items():
        (folder / f"{file}.yaml").write_text(write_yaml(content))
    assert load(folder / "near.yaml") == whole


def test_a_path_is_read_from_the_folder_of_the_file_that_names_it(tmp_path, monkeypatch):
    written(tmp_path, "base.yaml", extends="digits", seed=7)
    near = written(tmp_path / "inner", "near.yaml", extends="../base.yaml")
    monkeypatch.chdir("/")
    assert load(near).seed == 7


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    written(tmp_path / "home", "base.yaml", extends="digits", seed=7)
    near = written(tmp_path, "near.yaml", extends="~/base.yaml")
    assert load(near).seed == load("~/base.yaml").seed == 7


def test_a_home_that_nobody_has_is_reported(tmp_path):
    error = refusal(written(tmp_path, extends="~nobody-of-that-name/base.yaml"))
    assert "extends: ~nobody-of-that-name/base.yaml: there is no such home folder" in error.message


def test_an_own_policy_brings_the_values_that_the_extended_preset_has_for_it(tmp_path):
    mine = written(tmp_path, extends="digits", policy={"kind": "dx"})
    own = {"name": "mine", "summary": "a test"}
    assert to_dict(load(mine)) == to_dict(resolve("digits", None, [], {"policy.kind": "dx"})) | own
    assert to_dict(resolve(mine, None, [], {"policy.kind": "gm"})) == to_dict(load("digits")) | own
    momentum = resolve(mine, None, [], {"policy.kind": "momentum"})
    assert (momentum.policy.components, momentum.imitation.window) == (8, 1)


def test_what_a_file_says_counts_over_the_variants_of_what_it_extends_and_under_its_own(tmp_path):
    variants = {"dx-poly": {"policy": {"components": 6}}}
    mine = written(tmp_path, extends="digits", policy={"components": 5}, variants=variants)

    def components(kind: str) -> int:
        return resolve(mine, None, [], {"policy.kind": kind}).policy.components

    assert [components(kind) for kind in ("gm", "dx", "dx-poly", "momentum")] == [5, 5, 6, 5]


def test_a_name_is_of_the_preset_itself_and_all_else_may_be_inherited(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: digits\n")
    error = refusal(path)
    assert error.message == f"{path}: name: is missing"
    path.write_text("extends: digits\nname: mine\n")
    assert to_dict(load(path)) == to_dict(load("digits")) | {"name": "mine"}
    path.write_text("extends: digits\nname: mine\nsummary: two evaluations\npolicy: {nfe: 2}\n")
    assert (load(path).summary, load(path).policy.nfe) == ("two evaluations", 2)


@pytest.mark.parametrize(
    ("value", "complaint", "hint"),
    [
        ("flux-dv", "no preset is named 'flux-dv'; known: chroma, digits,", "did you mean flux-dev?"),
        ("./none.yaml", "cannot read ", "check the path"),
        ("a\0b.yaml", "cannot read ", "check the path"),
        ("", "must be the name of a preset or the path of a YAML file, not ''", "extends: flux-dev"),
        (["digits"], "must be the name of a preset or the path of a YAML file, not ['digits']", "extends: flux-dev"),
        (None, "must be the name of a preset or the path of a YAML file, not nothing", "extends: flux-dev"),
    ],
)
def test_what_is_extended_and_is_not_there_is_reported(tmp_path, value, complaint, hint):
    path = written(tmp_path, extends=value)
    error = refusal(path)
    assert error.message.startswith(f"{path}: extends: {complaint}") and hint in error.hint
    # A file between names itself.
    assert refusal(written(tmp_path, "near.yaml", extends=str(path))).message.endswith(error.message)


def test_a_circle_is_reported(tmp_path):
    itself = written(tmp_path, extends="mine.yaml")
    assert f"{itself}: extends: the files extend one another in a circle: {itself} extends {itself}" in str(
        refusal(itself)
    )
    first = written(tmp_path, "first.yaml", extends="second.yaml")
    second = written(tmp_path, "second.yaml", extends=str(first))
    message = refusal(first).message
    assert message.startswith(f"{second}: extends: ") and f"{first} extends {second} extends {first}" in message


def test_a_chain_ends(tmp_path):
    written(tmp_path, "1.yaml", extends="digits")
    for depth in range(2, DEEPEST + 1):
        written(tmp_path, f"{depth}.yaml", extends=f"{depth - 1}.yaml")
    assert load(tmp_path / f"{DEEPEST - 1}.yaml").policy == load("digits").policy
    assert f"{DEEPEST + 1} files extend one another, and {DEEPEST} may" in refusal(tmp_path / f"{DEEPEST}.yaml").message


def test_faults_name_the_file_that_they_are_in(tmp_path):
    far = written(tmp_path, "far.yaml", extends="digits", policy={"nfe": 0}, variants={"dy": {}})
    near = written(tmp_path, "near.yaml", extends="far.yaml", seed=-1, polcy={})
    lines = refusal(near).message.splitlines()
    assert sorted(line.strip() for line in lines[1:]) == sorted(
        [
            f"{far}: policy.nfe: must be at least 1, not 0",
            f"{far}: variants.dy: unknown policy; known: gm, dx, dx-poly, momentum",
            f"{near}: seed: must be at least 0, not -1",
            f"{near}: polcy: unknown key; did you mean policy?",
        ]
    )


def test_an_inherited_variant_is_checked_when_it_is_chosen(tmp_path):
    """The window of digits' DX policy is too long for a segment here, and whoever trains another never needs it."""
    mine = written(tmp_path, extends="digits", policy={"nfe": 16}, imitation={"states": 1})
    assert load(mine).policy.nfe == 16
    with pytest.raises(UsageError, match=r"imitation\.window is 10 substeps, longer than a segment, which has 8"):
        resolve(mine, None, [], {"policy.kind": "dx"})


def test_only_the_file_of_a_preset_extends(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("extends: flux-dev\n")
    with pytest.raises(UsageError, match=f"{path}: extends: unknown key here: .*--teacher FILE.yaml"):
        resolve("digits", path, [], {})
    with pytest.raises(UsageError, match="--set extends=flux-dev: unknown key here"):
        resolve("digits", None, ["extends=flux-dev"], {})
    with pytest.raises(UsageError, match="run.yaml: extends: unknown key here"):
        from_dict({**to_dict(load("digits")), "extends": "digits"}, "run.yaml")
    assert "extend: unknown key; did you mean extends?" in refusal(written(tmp_path, extend="digits")).message


def test_a_value_is_checked_once(monkeypatch):
    checked = []
    fault = Bound.fault
    monkeypatch.setattr(Bound, "fault", lambda bound, value: checked.append(value) or fault(bound, value))
    data = to_dict(load("digits"))
    data["policy"]["shift"] = 3.1415
    checked.clear()
    from_dict(data, "run.yaml")
    assert checked.count(3.1415) == 1


@pytest.mark.parametrize("name", ["../../x", "a/b", "a\\\\b", "-x", ".hidden", " x", "two\\nlines"])
def test_a_name_stays_in_the_folder_of_runs(cli, tmp_path, name) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f'extends: digits\nname: "{name}"\nsummary: a test\n')
    outcome = cli("distill", "--teacher", str(path), "--dry-run")
    assert outcome.code == 2 and "name: must be a folder's name" in outcome.err and outcome.out == ""


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("kind", ["gm", "dx", "momentum"])
def test_a_shipped_preset_leaves_each_policy_the_components_of_its_own(name, kind):
    """A number that is meant for the preset's own policy does not win over what it extends has for another."""
    preset, above = resolve(name, None, [], {"policy.kind": kind}), load(name)
    if kind != above.policy.kind:
        published = {"gm": 8, "dx": 10, "momentum": {"digits": 8}.get(name, 16)}
        assert preset.policy.components == published[kind]
