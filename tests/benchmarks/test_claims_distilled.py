"""Claim 8 on digits: the teacher that is distilled first, and the looks along a training."""

from __future__ import annotations

import json
from pathlib import Path

import claims_distilled
import guided_digits
import pytest
import torch
from claim_courses import against_teacher

from piflow_cli.core.guidance import Guidance
from piflow_cli.embedded.digits_teacher import load_digits
from piflow_cli.presets.resolve import resolve
from piflow_cli.sampling.denoise import sample_student, seeded_generators, seeded_noise
from piflow_cli.sampling.teacher import own_teacher
from piflow_cli.students.open import open_student
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import teacher_velocity
from piflow_cli.training.settings import network_evaluations
from piflow_cli.weights.locate import locate


@torch.no_grad()
def off_guidance(base: Path, scale: float) -> float:
    """Mean square of what the network in ``base`` answers once, less what the shipped one does under guidance."""
    family = family_of("dit")
    shipped, own = family.load(locate("preset:digits")), family.load(base)
    images, labels = (part[:64] for part in load_digits())
    generator = torch.Generator().manual_seed(7)
    sigma = torch.rand(64, generator=generator)
    spread = sigma[:, None, None, None]
    x = (1 - spread) * images + spread * torch.randn(images.shape, generator=generator)
    told = {"class_labels": labels}
    wanted = teacher_velocity(family, shipped, Guidance(scale), x, sigma, told)
    return (teacher_velocity(family, own, Guidance(), x, sigma, told) - wanted).square().mean().item()


def test_guidance_is_distilled_into_the_network(tmp_path: Path) -> None:
    """The shipped weights, as they are, answer as without guidance."""
    guided_digits.distil_guidance(tmp_path / "guided", 4.0, 40, torch.device("cpu"))
    assert off_guidance(tmp_path / "guided", 4.0) < 0.7 * off_guidance(locate("preset:digits"), 4.0)


def test_all_students_of_the_claim_cost_as_much() -> None:
    """But for the guided teacher, which is asked twice, and what the teacher walks where there is mixing."""
    arms = [(name, arm) for claim in claims_distilled.CLAIMS for name, arm in claim.arms.items()]
    presets = [(name, resolve("digits", None, [*arm.settings, f"policy.nfe={arm.nfe}"], {})) for name, arm in arms]
    assert {network_evaluations(one) for name, one in presets if name != "two halves"} == {640}
    assert all(one.imitation.data_free for _, one in presets)
    assert {one.teacher.guidance for name, one in presets if name != "two halves"} == {1.0}


@pytest.mark.long
def test_a_small_study_of_the_distilled_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fragile, _, mixing, _ = claims_distilled.CLAIMS
    titles = f"{fragile.title},{mixing.title}"  # claims of one number, of which there is another
    given = ["--runs", str(tmp_path), "--only", titles, "--seeds", "0,1", "--iterations", "2", "--images", "20"]
    claims_distilled.main([*given, "--json", str(tmp_path / "claims.json")])
    record = json.loads((tmp_path / "claims.json").read_text())
    first, second = record["claims"]
    answered = {name: arm["figures"][0]["teacher_error"] for name, arm in first["arms"].items()}
    assert len(set(answered.values())) == 2 and record["guidance"] == 4
    looks = second["arms"]["mixing"]["figures"][0]["course"]
    assert [look["iteration"] for look in looks] == [1, 2]
    # The last look is at the student that the run has saved, and at its own teacher.
    study = claims_distilled.DistilledStudy(tmp_path, 2, 20)
    folder = study.folder(mixing.arms["mixing"], 0)
    student = open_student(folder)
    teacher = own_teacher(student, folder)
    told = {"class_labels": torch.arange(20) // 2}
    noise = seeded_noise(seeded_generators(range(20)), (1, 8, 8))
    with torch.no_grad():
        last = against_teacher(sample_student(student, noise, told), teacher.sample(noise, told, 128))
    assert looks[-1] == pytest.approx({"iteration": 2, **last}, rel=1e-3)
    # What was made is there, and is not made again.
    monkeypatch.setattr("claim_runs.Study._distil", None)
    monkeypatch.setattr("claims_distilled.distil_guidance", None)
    claims_distilled.main(given)
