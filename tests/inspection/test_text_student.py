"""A text-to-image student of adapters, in bfloat16: its teacher is in its base, and
the precision of networks holds for both."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_vae import tiny_vae
from zoo import ZOO, disturb, student_of, zoo_preset

from piflow_cli.students.adapters import save_adapter

FLUX = ZOO["flux"]


@pytest.fixture
def adapter(tmp_path, text_encoders) -> Path:
    _, preset = zoo_preset(FLUX, tmp_path)
    tiny_vae(FLUX.family).save_pretrained(tmp_path / "base" / "vae")
    student = student_of(FLUX, FLUX.build())
    student.facts = replace(student.facts, base=preset.teacher.base)
    disturb(student)
    save_adapter(student, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_prompts_seeds_and_sizes(cli, unrendered, adapter, tmp_path, precision: str) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(
        '{"caption": "a fox", "width": 64, "height": 96}\n{"caption": "cat", "width": 96, "height": 64}\n'
    )
    options = ["--teacher", str(tmp_path / "tiny.yaml"), "--base-precision", precision, "--at", "2", "--slice", "2,1,3"]
    outcome = cli(
        "inspect-policy",
        str(adapter),
        "--prompts",
        str(prompts),
        "--text-column",
        "caption",
        "--seeds",
        "3",
        "--quiet",
        *options,
        "--output",
        str(tmp_path / "out"),
    )
    assert outcome.code == 0, outcome.err
    (student,) = json.loads((tmp_path / "out" / "policy.json").read_text())["students"]
    assert [(shot["seed"], shot["width"], shot["height"]) for shot in student["shots"]] == [(3, 64, 96), (3, 96, 64)]
    assert student["teacher_missing"] is None and student["at"] == 2
    for step in student["steps"]:
        assert len(step["velocity_error"]) == 8 and step["gap"][-1] > 0
    assert student["robustness"]["raws"][-1] == 0 and student["robustness"]["perturbations"][-1]["size"] == "measured"
