from __future__ import annotations

import json
from inspect import signature
from pathlib import Path

import pytest

from piflow_cli.presets.resolve import load, resolve
from piflow_cli.presets.schema import DATA_SOURCES


def test_distill_hands_over_what_was_asked(cli, training, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("policy: {substeps: 64}\nimitation: {states: 3}\n")
    arguments = (
        "--teacher digits --policy dx --nfe 2 --components 5 --iterations 400 --batch-size 32 --learning-rate 2e-4 "
        f"--data-free --seed 7 --device cuda:1 --output {tmp_path / 'out'} "
        f"--set imitation.states=4 --set policy.shift=2 --config {config} --no-resume"
    )
    outcome = cli("distill", *arguments.split())
    assert outcome.code == 0, outcome.err
    expected = resolve(
        "digits",
        config,
        ["imitation.states=4", "policy.shift=2"],
        {
            "policy.kind": "dx",
            "policy.nfe": 2,
            "policy.components": 5,
            "optimisation.iterations": 400,
            "optimisation.batch_size": 32,
            "optimisation.learning_rate": 2e-4,
            "imitation.data_free": True,
            "seed": 7,
        },
    )
    asked = {"device": "cuda:1", "resume": False, "parallel": "auto", "fork": None}
    assert training.runs == [{"preset": expected, "output": tmp_path / "out", **asked}]
    assert (expected.policy.substeps, expected.imitation.states, expected.policy.shift) == (64, 4, 2.0)


def test_distill_without_options_is_the_preset_and_resumes(cli, training):
    outcome = cli("distill", "--teacher", "digits")
    asked = {"device": "auto", "resume": True, "parallel": "auto", "fork": None}
    assert training.runs == [{"preset": load("digits"), "output": Path("runs/digits"), **asked}]
    assert outcome.out == f"output  {Path('runs/digits')}\nloss    nan\n"
    assert "training" in outcome.err and "piflow sample" in outcome.err


@pytest.mark.parametrize(("flag", "expected"), [("--no-data-free", False), ("--data-free", True)])
def test_data_free_and_not(cli, training, flag, expected):
    cli("distill", "--teacher", "digits", "--set", f"imitation.data_free={str(not expected).lower()}", flag)
    assert training.runs[0]["preset"].imitation.data_free is expected


@pytest.mark.parametrize(
    ("teacher", "flag", "key"),
    [("flux-dev", "--prompts", "prompts"), ("imagenet-fm", "--data", "images"), ("flux-dev", "--data", "captioned")],
)
def test_a_source_of_data_takes_the_place_of_the_presets(cli, training, teacher, flag, key):
    """Pictures have labels where the teacher is told a class, and captions where it is told a text."""
    assert cli("distill", "--teacher", teacher, flag, "owner/name", "--cache", "there").code == 0
    data = training.runs[0]["preset"].data
    assert (data.source, getattr(data, key), data.cache) == (key, "owner/name", "there")
    assert [name for name in DATA_SOURCES if getattr(data, name) is not None] == [key]


@pytest.mark.parametrize("told", [("--text-column", "caption"), ("--set", "data.resolution=512")])
def test_what_is_of_captions_is_for_teachers_that_are_told_a_text(cli, training, told):
    refused = cli("distill", "--teacher", "imagenet-fm", "--data", "owner/name", *told)
    assert refused.code == 2 and "this one is told a class" in refused.err and not training.runs
    assert cli("distill", "--teacher", "flux-dev", "--data", "owner/name", *told).code == 0


def test_the_row_of_each_family_says_its_name_and_what_it_is_told():
    from piflow_cli.presets.families import CLASS, TEXT, conditioning_of
    from piflow_cli.teachers import families
    from piflow_cli.teachers.class_conditional import ClassConditionalFamily
    from piflow_cli.teachers.text_to_image import TextToImageFamily

    bases = {CLASS: ClassConditionalFamily, TEXT: TextToImageFamily}
    assert len(families()) == 31
    for name, family in families().items():
        assert family.name == name and issubclass(family, bases[conditioning_of(name)])
    assert conditioning_of("unet") is None and conditioning_of(["dit"]) is None


def test_two_sources_of_data_are_refused(cli, training):
    outcome = cli(
        "distill", "--teacher", "flux-dev", "--prompts", "p.txt", "--data", "d", "--set", "data.resolution=512"
    )
    assert outcome.code == 2 and not training.runs
    assert "--data d: excludes data.prompts" in outcome.err


def test_data_from_prompts_alone_is_refused(cli, training):
    arguments = ["--prompts", "p.txt", "--no-data-free", "--set", "data.resolution=512"]
    outcome = cli("distill", "--teacher", "flux-dev", *arguments)
    assert outcome.code == 2 and not training.runs
    assert "prompts bring no pictures to add noise to; in their place give some: --data SOURCE" in outcome.err


@pytest.mark.parametrize("before", [True, False])
def test_distill_with_json_prints_its_result_and_nothing_else(cli, training, before):
    order = ["--json", "distill"] if before else ["distill", "--json"]
    outcome = cli(*order, "--teacher", "digits", "--output", "x")
    assert (json.loads(outcome.out), outcome.err) == ({"output": "x", "loss": None}, "")


def test_quiet_before_the_command_holds_for_it(cli, training):
    assert cli("--quiet", "distill", "--teacher", "digits").err == ""


def test_dry_run_prints_the_plan_and_stops(cli, training):
    outcome = cli("distill", "--teacher", "digits", "--dry-run", "--json")
    plan = {
        "preset": "digits",
        "policy": {"kind": "gm", "nfe": 1},
        "device": "auto",
        "processes": 1,
        "parallel": "auto",
        "folder": str(Path("runs/digits")),
    }
    assert json.loads(outcome.out) == plan
    assert "kind  gm" in cli("distill", "--teacher", "digits", "--dry-run").out
    assert not training.runs


def test_list_teachers(cli):
    header, *rows = cli("distill", "--list-teachers").out.splitlines()
    assert header.split() == ["NAME", "FAMILY", "POLICY", "NFE", "MEMORY", "LICENCE"]
    assert any(row.split()[:4] == ["digits", "dit", "gm", "1"] for row in rows)
    listed = {row["name"]: row for row in json.loads(cli("distill", "--list-teachers", "--json").out)}
    assert listed["digits"]["licence"] == load("digits").teacher.license


def test_the_library_asks_for_just_that():
    from piflow_cli.training import describe, distill

    assert list(signature(describe).parameters) == ["preset", "output", "device", "processes", "parallel"]
    asked = ["preset", "output", "device", "resume", "console", "parallel", "fork", "began"]
    assert list(signature(distill).parameters) == asked
