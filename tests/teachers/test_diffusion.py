"""Teachers that are told a class and are no flow models: against their stock pipeline, and through the commands."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline
from exports import export
from interruptions import interrupted_at
from safetensors.torch import load_file
from tiny_diffusion import FAMILIES, diffusion_facts, released_dit, teacher, tiny_preset

from piflow_cli.core.guidance import Guidance
from piflow_cli.core.timegrid import to_raw, to_sigma
from piflow_cli.sampling.denoise import sample_student, sample_teacher
from piflow_cli.students.student import Student, student_of
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import teacher_velocity
from piflow_cli.teachers.class_conditional import ClassConditionalFamily
from piflow_cli.training import loop, run

every_family = pytest.mark.parametrize("name", FAMILIES)
LABELS = [0, 2]


def noise(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def student(name: str, policy: str) -> Student:
    return student_of(teacher(name), family_of(name), diffusion_facts(name, policy), seed=0)


@torch.no_grad()
def test_the_released_dit_draws_what_its_stock_pipeline_draws() -> None:
    """DDIM at four times from the noisiest on, guided; the variance is cut off there, and here."""
    model, family = released_dit(), family_of("dit-ddpm")
    vae = AutoencoderKL(latent_channels=2, norm_num_groups=4, block_out_channels=(8,), scaling_factor=0.5).eval()
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    stock = DiTPipeline(model, vae, scheduler)
    stock.set_progress_bar_config(disable=True)
    # Its null class is 1000, whatever the network's.
    null, embed = model.config.num_embeds_ada_norm, torch.nn.functional.embedding
    seeds = torch.Generator().manual_seed(3)
    drawn = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "embedding", lambda x, *rest: embed(x.clamp(max=null), *rest))
        theirs = stock(LABELS, guidance_scale=2.0, generator=seeds, num_inference_steps=4, output_type="pt")
    a, b = (value.sqrt() for value in (scheduler.alphas_cumprod, 1 - scheduler.alphas_cumprod))
    levels = (b / (a + b))[scheduler.timesteps]
    assert scheduler.timesteps[0] == 999
    x, told = family.parameterisation.first_state(drawn), family.condition(model, LABELS)
    for sigma, following in zip(levels, [*levels[1:], torch.zeros(())]):
        velocity = teacher_velocity(family, model, Guidance(2.0), x, sigma.expand(2), told)
        x = x + (following - sigma).float() * velocity
    ours = (vae.decode(x / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    assert theirs.images.std() > 0.01
    torch.testing.assert_close(ours, theirs.images, rtol=0, atol=1e-5)


@every_family
@pytest.mark.parametrize("policy", ["dx", "dx-poly"])
def test_a_student_starts_with_the_velocity_of_its_teacher(name: str, policy: str) -> None:
    one, base = student(name, policy), teacher(name)
    grid = one.grid(2)
    raw, told = torch.tensor(grid.edges[:2], dtype=torch.float64), one.family.condition(base, LABELS)
    if one.family.predicts == "epsilon-linear":
        # Beyond 0.5 its gain is bounded.
        raw = to_raw(torch.tensor([0.5, 0.4], dtype=torch.float64), 3.2)
    with torch.no_grad():
        found = one.policy(one.model, noise(), raw, told).velocity(noise(), raw)
        expected = teacher_velocity(one.family, base, Guidance(), noise(), to_sigma(raw, 3.2), told)
    assert grid.edges[0] < 1 and base.out_channels in (2, 4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["dit-v", "dit-edm", "edm2"])
def test_a_student_of_one_point_takes_its_teacher_s_euler_steps(name: str) -> None:
    """Four evaluations of segments of one length, each followed straight on; where a student has its teacher's gain."""
    base, facts = teacher(name), diffusion_facts(name, "dx")
    one = student_of(base, family_of(name), facts, seed=0)
    one.facts = type(facts)(**{**vars(facts), "final_step_scale": 1.0, "substeps": 1})
    told = one.family.condition(base, LABELS)
    with torch.no_grad():
        ours = sample_student(one, noise(), told, steps=4)
    theirs = sample_teacher(one.family, base, noise(), told, 4, 3.2, Guidance())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@every_family
def test_an_exported_pipeline_draws_what_the_student_does(name: str, tmp_path) -> None:
    folder = export(student(name, "gm"), "pipeline", tmp_path / "out")
    assert "noisiest" in (folder / "scheduler" / "policy_scheduler.py").read_text()


@pytest.mark.parametrize("name", ["dit-ddpm", "dit-edm", "edm2"])
def test_distil_interrupt_resume_and_sample(cli, name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ClassConditionalFamily, "beside_steps", 4)
    for drawing in ("save_comparison", "draw_loss"):
        monkeypatch.setattr(run, drawing, lambda *arguments: None)
    vae = tmp_path / "vae"
    tiny_vae_of_two_channels().save_pretrained(vae)
    arguments = ["distill", "--teacher", str(tiny_preset(name, tmp_path)), "--quiet", "--set", f"teacher.vae={vae}"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    outcome = cli(*arguments, "--output", str(whole))
    assert (outcome.code, outcome.err) == (0, "")
    monkeypatch.setattr(run, "train_step", interrupted_at(2))
    assert cli(*arguments, "--output", str(parts)).code == 130
    monkeypatch.setattr(run, "train_step", loop.train_step)
    assert cli(*arguments, "--output", str(parts)).code == 0
    left, right = (load_file(folder / "checkpoints" / "0000004" / "training.safetensors") for folder in (whole, parts))
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    outcome = cli("sample", str(whole), "--seeds", "0-2", "--output", str(tmp_path / "pictures"), "--json")
    assert outcome.code == 0, outcome.err
    assert len(list((tmp_path / "pictures").glob("00000*.png"))) == 3
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["loss"] < float("inf") for row in rows if "loss" in row)


def tiny_vae_of_two_channels() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(latent_channels=2, norm_num_groups=4, block_out_channels=(8,), scaling_factor=0.5)
