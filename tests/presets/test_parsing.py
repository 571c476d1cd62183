"""What is wrong with a preset: found all at once, placed, and said in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.errors import UsageError
from piflow_cli.presets.contradictions import segment_substeps
from piflow_cli.presets.keys import nearest
from piflow_cli.presets.resolve import load, resolve, to_dict
from piflow_cli.presets.schema import PolicySection, Preset
from piflow_cli.presets.yaml_files import MOST_VALUES, read_yaml


def written(tmp_path: Path, text: str, name: str = "mine.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def edited(tmp_path: Path, **sections: object) -> Path:
    """The digits preset with sections replaced or, where both are mappings, extended."""
    data = to_dict(load("digits"))
    for name, value in sections.items():
        both = isinstance(value, dict) and isinstance(data.get(name), dict)
        data[name] = {**data[name], **value} if both else value
    return written(tmp_path, yaml.safe_dump(data))


def refusal(*args: object) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(*args)
    assert caught.value.hint
    return caught.value.message


def test_numbers_may_be_written_without_a_point(tmp_path):
    path = written(tmp_path, "optimisation: {learning_rate: 1e-4, weight_decay: 2E3, gradient_clip: 5}\n")
    optimisation = resolve("digits", path, ["imitation.loss_scale=3e1"], {}).optimisation
    assert (optimisation.learning_rate, optimisation.weight_decay, optimisation.gradient_clip) == (1e-4, 2000.0, 5.0)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_that_python_prints_is_a_number(value):
    assert read_yaml(repr(value), "")[0] == value


def test_all_faults_of_a_file_come_in_one_message(tmp_path):
    path = edited(
        tmp_path,
        policy={"nfe": 0, "kind": "dy", "componets": 3},
        imitation={"dropout": 1.0, "data_free": "yes please", "window": 1000},
        optimisation={"learning_rate": "fast", "betas": [0.9], "warmup": 900},
        output=3,
        polcy={"nfe": 2},
        variants={"dx": {"policy": {"components": 0}}, "dz": {}},
    )
    lines = refusal(path, None, [], {}).splitlines()
    assert lines[0] == f"{path}: {len(lines) - 1} faults:"
    assert sorted(line.strip() for line in lines[1:]) == sorted(
        [
            "policy.nfe: must be at least 1, not 0",
            "policy.kind: must be gm, dx, dx-poly or momentum, not 'dy'",
            "policy.componets: unknown key; did you mean policy.components?",
            "imitation.dropout: must be below 1, not 1.0",
            "imitation.data_free: must be true or false, not 'yes please'",
            "optimisation.learning_rate: must be a number, not 'fast'",
            "optimisation.betas: item 2 is missing",
            "output: must be a section of keys, not 3",
            "polcy: unknown key; did you mean policy?",
            "variants.dx.policy.components: must be at least 1, not 0",
            "variants.dz: unknown policy; known: gm, dx, dx-poly, momentum",
        ]
    )


def test_contradictions_are_reported_with_the_faults_of_other_sections(tmp_path):
    path = edited(
        tmp_path,
        teacher={"guidance_interval": [0.7, 0.2]},
        policy={"nfe": 4, "final_step_scale": 0.5, "substeps": 128},
        imitation={"window": 38},
        optimisation={"batch_size": 128, "device_batch_size": 256},
        output={"tracker": "paper"},
    )
    message = refusal(path, None, [], {})
    for expected in (
        "teacher.guidance_interval: must run from low to high sigma, not from 0.7 to 0.2",
        "imitation.window: is 38 substeps, longer than a segment, which has 37 (policy.nfe 4, policy.substeps 128)",
        "optimisation.device_batch_size: is 256 and must not exceed optimisation.batch_size, 128",
        "output.tracker: must be none, tensorboard, wandb, trackio, mlflow, aim, comet or swanlab, not 'paper'",
    ):
        assert expected in message
    assert "4 faults" in message


def test_sources_of_data_that_exclude_each_other(tmp_path):
    data = {"prompts": "p.txt", "captioned": "folder", "resolution": 512, "sizes": [[512, 512]], "images": None}
    message = refusal(edited(tmp_path, data=data, imitation={"data_free": False}), None, ["teacher.family=flux"], {})
    assert "data.captioned: excludes data.prompts; give one of them" in message
    assert "data.sizes: excludes data.resolution; give one of them" in message
    assert "imitation.data_free: is false, and prompts bring no pictures" in message and "3 faults" in message


@pytest.mark.parametrize("source", ["prompts", "captioned"])
def test_prompts_and_pictures_need_a_size(source):
    message = refusal("digits", None, [f"data.{source}=x", "teacher.family=flux"], {})
    assert f"data.resolution is missing: data.{source} needs the pictures' side in pixels, or data.sizes" in message


@pytest.mark.parametrize(
    ("nfe", "scale", "substeps", "expected"),
    [(1, 1.0, 128, 128), (1, 0.5, 128, 128), (4, 0.5, 128, 37), (9, 1.0, 4, 1)],
)
def test_substeps_of_a_segment(nfe, scale, substeps, expected):
    assert segment_substeps(PolicySection("gm", 8, nfe, scale, substeps=substeps)) == expected


def test_each_fault_names_the_place_it_was_written_in(tmp_path):
    config = written(tmp_path, "policy: {substeps: 0}\n", "changes.yaml")
    message = refusal("digits", config, ["policy.shift=-1", "seed"], {"policy.nfe": 0, "seed": -1})
    for expected in (
        f"{config}: policy.substeps: must be at least 1, not 0",
        "--set policy.shift=-1: must be above 0, not -1",
        "--set seed: write it as section.key=value",
        "--nfe 0: must be at least 1, not 0",
        "--seed -1: must be at least 0, not -1",
    ):
        assert expected in message


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("policy.nfe='2'", "must be a whole number, not '2'"),
        ("policy.nfe=2.5", "must be a whole number, not 2.5"),
        ("policy.nfe=true", "must be a whole number, not true"),
        ("policy.nfe=", "must be a whole number, not nothing"),
        ("optimisation.learning_rate=.inf", "must be a finite number, not inf"),
        ("optimisation.learning_rate=.nan", "must be a finite number, not nan"),
        ("optimisation.betas=[0.9, 0.9, 0.9]", "must be a list of two numbers"),
        ("data.sizes=3", "must be a list of [width, height] in pixels, as in [[1024, 1024], [832, 1216]], not 3"),
        ("data.sizes=[[64, 0]]", "must be a list of [width, height] in pixels"),
        ("data.sizes=[[64, 64, 64]]", "must be a list of [width, height] in pixels"),
        ("data.sizes=[[64, true]]", "must be a list of [width, height] in pixels"),
        ("data.resolution=0", "must be at least 1, not 0"),
        ("data.aspect_ratio=0.5", "must be at least 1, not 0.5"),
        ("teacher.guidance=0.5", "must be at least 1, not 0.5"),
        ("teacher.name=x", "unknown key; did you mean name?"),
        ("teacher.base=''", "must not be empty"),
        ("policy.temperature=0", "must be auto or a number above 0 and at most 1, not 0"),
        ("policy.temperature=cold", "must be auto or a number above 0 and at most 1, not 'cold'"),
        ("policy=gm", "must be a section of keys, not 'gm'"),
        ("policy.nfe=[1", "not valid YAML"),
        ("policy.nfe=!!python/object:os.system {}", "not valid YAML"),
        ("variants.dx={}", "unknown key"),
        ("=3", "write it as section.key=value"),
        ("summary=2020-13-45", "not valid YAML"),
    ],
)
def test_an_impossible_assignment_is_refused_in_plain_words(assignment, complaint):
    message = refusal("digits", None, [assignment], {})
    assert f"--set {assignment}" in message and complaint in message
    assert "\n" not in message and "pydantic" not in message and "Input" not in message


@given(st.text(max_size=20))
def test_any_assignment_is_a_preset_or_a_usage_error(text):
    try:
        assert isinstance(resolve("digits", None, [text], {}), Preset)
    except UsageError as error:
        assert error.hint


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("policy.nef", "policy.nfe"),
        ("polcy", "policy"),
        ("nfe", "policy.nfe"),
        ("imitation.nfe", "policy.nfe"),
        ("optimization", "optimisation"),
        ("policy.learning_rat", "optimisation.learning_rate"),
        ("sed", "seed"),
        ("policy.qqqq", None),
        ("lr", "optimisation.learning_rate"),
        ("training.LR", "optimisation.learning_rate"),
    ],
)
def test_the_nearest_key(key, expected):
    assert nearest(key) == expected


def test_a_key_that_appears_twice_is_refused_with_its_line(tmp_path):
    path = written(tmp_path, "policy:\n  nfe: 1\n  components: 4\n  nfe: 2\npolicy:\n  nfe: 3\n")
    message = refusal("digits", path, [], {})
    assert "line 4: the key nfe appears twice" in message
    assert "line 5: the key policy appears twice" in message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("policy:\n  nfe: [1\n", "mine.yaml:2: not valid YAML"),
        ("policy:\n\tnfe: 1\n", "mine.yaml:2: not valid YAML"),
        ("", "is empty"),
        ("- 1\n", "holds [1]"),
        ("policy: &a\n  nfe: *b\n", "mine.yaml:2: not valid YAML"),
        ("? [1, 2]\n: 3\n", "mine.yaml:1: not valid YAML"),
        ("1: 2\n", "1: unknown key"),
        ("[" * 1200 + "\n", "not valid YAML"),
        ("policy: &a {nfe: *a}\n", "an alias stands inside of what it stands for"),
        ("\x00\n", "not valid YAML"),
    ],
)
def test_a_broken_file_says_where(tmp_path, text, complaint):
    assert complaint in refusal("digits", written(tmp_path, text), [], {})


@pytest.mark.parametrize("merged", [False, True])
def test_a_few_lines_of_aliases_do_not_fill_the_memory(tmp_path, merged):
    """Each line holds nine of the one before it: 9 to the power of 30 values, were they ever made."""
    alias = "{{<<: [{}]}}" if merged else "[{}]"
    lines = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} " + alias.format(", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 30)]
    assert f"more than {MOST_VALUES:,} values" in refusal("digits", written(tmp_path, "\n".join(lines)), [], {})


def test_aliases_of_a_reasonable_size_are_followed(tmp_path):
    path = written(tmp_path, "policy: {nfe: 2}\noptimisation: {betas: [&b 0.5, *b]}\n")
    preset = resolve("digits", path, [], {})
    assert (preset.policy.nfe, preset.optimisation.betas) == (2, (0.5, 0.5))


def test_a_file_that_is_too_large_or_never_ends_is_no_preset(tmp_path):
    assert "larger than" in refusal("digits", written(tmp_path, "a: 1\n" * 300_000), [], {})
    if Path("/dev/zero").exists():
        assert "larger than" in refusal("digits", Path("/dev/zero"), [], {})


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path):
    assert "No such file" in refusal("digits", tmp_path / "none.yaml", [], {})
    assert "directory" in refusal("digits", tmp_path, [], {})
    assert "No such file" in refusal(str(tmp_path / "none.yaml"), None, [], {})


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"policy: \xff\xfe\xff")
    assert "not valid YAML" in refusal("digits", path, [], {})


def test_a_variant_may_not_repeat_or_contradict_its_policy(tmp_path):
    variants = {"gm": {"seed": 1}, "dx": {"policy": {"kind": "gm"}}, "dx-poly": [1]}
    message = refusal(edited(tmp_path, variants=variants), None, [], {})
    assert "variants.gm: is the preset's own policy" in message
    assert "variants.dx.policy.kind: is given by the variant's name" in message
    assert "variants.dx-poly: must hold sections of keys" in message


def test_a_missing_section_and_a_missing_key_are_named(tmp_path):
    data = to_dict(load("digits"))
    del data["output"], data["policy"]["nfe"]
    message = refusal(written(tmp_path, yaml.safe_dump(data)), None, [], {})
    assert "output: is missing" in message and "policy.nfe: is missing" in message
