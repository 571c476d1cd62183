"""A key that changes nothing under the rest of the preset is refused where somebody asks for it."""

from __future__ import annotations

import pytest

from piflow_cli.errors import UsageError
from piflow_cli.presets.idle import IDLE
from piflow_cli.presets.resolve import available, load, resolve

# For each key: a preset and settings under which it does nothing, and settings under which it does.
PROMPTS = ["data.prompts=prompts.txt"]
CASES = {
    "policy.temperature": ("digits", ["policy.temperature=0.5"], {"policy.kind": "dx"}, {"policy.kind": "gm"}),
    "policy.logstd_width": ("digits", ["policy.logstd_width=8"], {"policy.kind": "momentum"}, {}),
    "policy.final_step_scale": ("digits", ["policy.final_step_scale=0.5"], {}, {"policy.nfe": 2}),
    "teacher.guidance_interval": ("digits", ["teacher.guidance_interval=[0, 0.5]"], {}, {"teacher.guidance": 2.0}),
    "teacher.guidance_mode": ("digits", ["teacher.guidance_mode=orthogonal"], {}, {"teacher.guidance": 2.0}),
    "imitation.dropout": ("digits", ["imitation.dropout=0.1"], {"policy.kind": "dx"}, {"policy.kind": "gm"}),
    "optimisation.gamma_learning_rate": (
        "digits",
        ["optimisation.gamma_learning_rate=0.5"],
        {},
        {"policy.kind": "momentum"},
    ),
    "optimisation.iterations": ("digits", ["optimisation.iterations=5"], {"optimisation.budget": "60s"}, {}),
    "optimisation.schedule": ("digits", ["optimisation.schedule=cosine"], {"optimisation.budget": "60s"}, {}),
    "data.aspect_ratio": (
        "flux-dev",
        [*PROMPTS, "data.aspect_ratio=2", "data.sizes=[[64, 64]]"],
        {},
        {"data.sizes": None},
    ),
}


@pytest.mark.parametrize("key", CASES)
def test_what_does_nothing_is_refused_and_what_does_something_is_not(key):
    name, assignments, idle, busy = CASES[key]
    with pytest.raises(UsageError, match=f"{key}=.*: ") as caught:
        resolve(name, None, assignments, idle)
    assert "\n" not in caught.value.message
    if key == "data.aspect_ratio":
        assignments = [text for text in assignments if "sizes" not in text]
    resolve(name, None, assignments, busy)


FOR_TEXTS = {
    "data.cache": "cache",
    "data.offload_text_encoder": "true",
    "data.limit": "3",
    "data.resolution": "512",
    "data.sizes": "[[64, 64]]",
    "data.aspect_ratio": "2.0",
    "data.text_column": "caption",
    "data.image_column": "picture",
    "data.split": "test",
}


@pytest.mark.parametrize("key", FOR_TEXTS)
def test_what_is_for_texts_is_refused_for_a_teacher_of_classes(key):
    with pytest.raises(UsageError, match=key):
        resolve("digits", None, [f"{key}={FOR_TEXTS[key]}"], {})
    resolve("flux-dev", None, ["data.captioned=owner/name", f"{key}={FOR_TEXTS[key]}"], {})


def test_columns_of_pictures_and_splits_are_of_data_sets():
    for key, source in (("image_column", "owner/name"), ("split", "prompts.csv"), ("split", "prompts.JSONL")):
        with pytest.raises(UsageError, match=f"data.{key}=x: does nothing"):
            resolve("flux-dev", None, [f"data.prompts={source}", f"data.{key}=x"], {})
    resolve("flux-dev", None, ["data.prompts=owner/name", "data.split=x"], {})


def test_an_interval_is_of_two_halves_and_a_vae_of_a_teacher_of_classes():
    for setting in ("teacher.guidance_interval=[0, 0.5]", "teacher.vae=owner/vae"):
        with pytest.raises(UsageError, match="does nothing"):
            resolve("flux-dev", None, [*PROMPTS, setting], {})
    resolve("qwen-image", None, [*PROMPTS, "teacher.guidance_interval=[0, 0.5]"], {})
    resolve("imagenet-repa", None, ["teacher.vae=owner/vae"], {})


def test_a_config_file_is_held_to_the_same(tmp_path):
    (tmp_path / "more.yaml").write_text("policy: {temperature: 0.5, kind: dx}\n")
    with pytest.raises(UsageError, match=r"more.yaml: policy.temperature: does nothing to a dx policy"):
        resolve("digits", tmp_path / "more.yaml", [], {})


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("kind", ["gm", "dx", "dx-poly", "momentum"])
def test_what_a_preset_says_itself_holds_for_all_its_policies(name, kind):
    resolve(name, None, [], {"policy.kind": kind})


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("digits", "data.prompts=p.txt"),
        ("digits", "data.captioned=photos"),
        ("flux-dev", "data.images=x.safetensors"),
        ("flux-dev", "data.labels=uniform"),
    ],
)
def test_data_of_the_other_kind_of_teacher_is_refused(name, given):
    with pytest.raises(UsageError, match=f"^--set {given}: is for teachers that are told") as caught:
        resolve(name, None, [given], {})
    assert "\n" not in caught.value.message
    assert caught.value.hint == f"leave --set {given} out"


def test_every_rule_is_tried():
    with pytest.raises(UsageError, match="data.text_column=.*no columns"):
        resolve("flux-dev", None, [*PROMPTS, "data.text_column=caption"], {})
    resolve("flux-dev", None, ["data.prompts=prompts.csv", "data.text_column=caption"], {})
    assert set(IDLE) == {*CASES, *FOR_TEXTS, "teacher.vae"}
    assert load("digits").policy.kind == "gm"
