"""Runs and adapters that version 0.1.0 wrote: they are read, sampled from and gone on with as that version did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_vae import tiny_vae

from piflow_cli.students.open import open_student
from piflow_cli.training import run

OLDER = Path(__file__).parent.parent / "data" / "written_by_0_1_0"
ADAPTERS = {"gm": "flux/run", "dx": "dx", "dx-poly": "dx-poly", "momentum": "momentum"}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(OLDER / "expected.safetensors")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without the pictures of their end, which have tests of their own."""
    for drawing in ("save_comparison", "draw_loss"):
        monkeypatch.setattr(run, drawing, lambda *given: None)


@pytest.mark.parametrize("policy", ADAPTERS)
def test_an_adapter_is_the_student_it_was(policy, expected) -> None:
    student = open_student(OLDER / ADAPTERS[policy], base=str(OLDER / "flux-base"))
    text = {name.removeprefix("text."): value for name, value in expected.items() if name.startswith("text.")}
    x, raw = expected["x"], expected["raw"]
    with torch.no_grad():
        velocity = student.policy(student.model, x, raw, text).velocity(x * 0.9, raw * 0.8)
    assert student.facts.policy == policy
    torch.testing.assert_close(velocity, expected[f"flux-{policy}"], rtol=1e-6, atol=1e-6)


def test_a_student_trained_in_full_is_the_one_it_was(expected) -> None:
    student = open_student(OLDER / "digits" / "run")
    x, raw = expected["x_digits"], expected["raw"]
    with torch.no_grad():
        told = student.family.condition(student.model, [0, 9])
        velocity = student.policy(student.model, x, raw, told).velocity(x * 0.9, raw * 0.8)
    torch.testing.assert_close(velocity, expected["digits"], rtol=1e-6, atol=1e-6)


def named(settings: list[str]) -> list[str]:
    """Options that set them; 0.1.0 had another temperature where a preset says none."""
    return [part for setting in settings for part in ("--set", setting)]


def goes_on(cli, place: Path, name: str, command: list[str]) -> None:
    """The run of ``name`` in ``place`` takes the steps that 0.1.0 took from there."""
    shutil.copytree(OLDER / name / "run", place / "run")
    outcome = cli("distill", *command, "--output", "run", "--quiet")
    assert outcome.err == "" and outcome.code == 0
    found, taken = measured(place / "run" / "metrics.jsonl"), measured(OLDER / name / "metrics-at-4.jsonl")
    assert [step["iteration"] for step in found] == [1, 2, 3, 4]
    for step, before in zip(found, taken):
        assert {key: step[key] for key in before} == pytest.approx(before, rel=1e-6)


def measured(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_of_adapters_goes_on(cli, text_encoders, undrawn, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLDER / "flux-base", tmp_path / "base")
    tiny_vae("flux").save_pretrained(tmp_path / "base" / "vae")
    shutil.copy(OLDER / "flux" / "tiny.yaml", tmp_path)
    (tmp_path / "prompts.txt").write_text("cat\ndog\na sun\nrain\n")
    settings = ["data.cache=cache", "data.sizes=[[96, 64]]", "policy.temperature=auto"]
    goes_on(cli, tmp_path, "flux", ["--teacher", "tiny.yaml", "--prompts", "prompts.txt", *named(settings)])


def test_a_run_of_a_whole_network_goes_on(cli, undrawn, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLDER / "digits-base", tmp_path / "base")
    settings = ["optimisation.batch_size=4", "output.checkpoint_every=2", "policy.temperature=auto"]
    command = ["--teacher", "digits", "--base", "base", "--iterations", "4", *named(settings)]
    goes_on(cli, tmp_path, "digits", command)
    found, ended = (
        load_file(tmp_path / "run" / "adapter" / WEIGHTS),
        load_file(OLDER / "digits" / "student-at-4.safetensors"),
    )
    assert found.keys() == ended.keys()
    for key, value in ended.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-7)
