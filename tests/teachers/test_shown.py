"""Families that are shown a picture against their stock pipelines, which encode it: packing, positions, time, sign."""

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from edit_data import PICTURE, SIZE
from euler_steps import euler, euler_at
from exports import export
from tiny_vae import tiny_vae
from torch import Tensor, nn
from zoo import EDITS, RAW, Row, certain, conditioning, disturb, states, student_of

from piflow_cli.data.buckets import fit
from piflow_cli.presets.resolve import load
from piflow_cli.sampling.denoise import sample_by_pipeline, sample_student, sample_teacher
from piflow_cli.students.shared_base import root
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import guidance_of
from piflow_cli.teachers.encoders import NEGATIVE_PREFIX, REFERENCE

pytestmark = pytest.mark.usefixtures("small_references")
# FLUX.1 Kontext takes latents too, and has tests of its own.
ROWS = {name: row for name, row in EDITS.items() if name != "flux-kontext"}
PRESETS = {
    "flux2-edit": "flux2-dev-edit",
    "qwen-image-edit": "qwen-image-edit-2511",
    "flux2-klein-edit": "flux2-klein-edit",
}
every_row = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


def told_of(row: Row, guided: bool = False) -> dict[str, Tensor]:
    """The zoo's text, and the picture as it is encoded for training."""
    told = {name: value[:1] for name, value in conditioning(row).items()}
    family = family_of(row.family)
    with torch.no_grad():
        told[REFERENCE], _ = family.encode_images(tiny_vae(row.family), fit(PICTURE, SIZE)[None])
    return told if guided else {name: value for name, value in told.items() if not name.startswith(NEGATIVE_PREFIX)}


def edited(row: Row, model: nn.Module, scheduler, x: Tensor, steps: int, told: dict[str, Tensor]) -> Tensor:
    """What the stock pipeline, with a VAE, makes of noise and the picture."""
    family = family_of(row.family, row.guidance)
    kind = getattr(diffusers, family.pipeline_name)
    absent = dict.fromkeys(kind._get_signature_keys(kind)[0])
    pipeline = kind(**{**absent, "scheduler": scheduler, "vae": tiny_vae(row.family), "transformer": model})
    pipeline.set_progress_bar_config(disable=True)
    given = {name: value for name, value in family.pipeline_inputs(told).items() if name != "image"}
    latents = pipeline(
        image=PICTURE,
        **given,
        height=SIZE[1],
        width=SIZE[0],
        num_inference_steps=steps,
        latents=family.to_pipeline(x),
        output_type="latent",
    ).images
    if row.family == "flux2-klein-edit":
        # This one returns latents of its VAE.
        mean, std = family.latent_statistics(pipeline.vae, latents)
        return (latents - mean) / std
    return family.from_pipeline(latents, *x.shape[-2:])


@every_row
def test_the_stock_pipeline_agrees_on_the_teachers_velocity(row: Row) -> None:
    """Guided as a shipped preset has it."""
    family, model, x, told = family_of(row.family, row.guidance), row.build(), states(batch=1), told_of(row, True)
    guidance = guidance_of(load(PRESETS[row.family]).teacher)
    ours = sample_teacher(family, model, x, told, 3, 2.0, guidance)
    torch.testing.assert_close(ours, edited(row, model, euler(3), x, 3, told), rtol=1e-4, atol=1e-4)
    other = sample_teacher(family, model, x, {**told, REFERENCE: -told[REFERENCE]}, 3, 2.0, guidance)
    assert (other - ours).abs().max() > 0.01


@every_row
@pytest.mark.parametrize("policy", ["gm", "dx", "momentum"])
def test_the_stock_pipeline_samples_what_we_sample(row: Row, policy: str) -> None:
    student = student_of(row, row.build(), policy)
    disturb(student)
    x, told = states(batch=1), told_of(row)
    scheduler = student.scheduler(temperature=0.4, patch=student.family.token_positions)
    ours = sample_student(student, x, told, temperature=0.4)
    torch.testing.assert_close(ours, edited(row, root(student.model), scheduler, x, 2, told), rtol=1e-4, atol=1e-4)


@every_row
def test_a_new_student_edits_as_its_teacher_does_in_euler_steps(row: Row, monkeypatch) -> None:
    """Both unguided, since guidance is what a student learns."""
    student, x, told = certain(row, "gm", monkeypatch), states(batch=1), told_of(row)
    scheduler = student.scheduler(patch=student.family.token_positions)
    scheduler.set_timesteps(2)
    found = edited(row, root(student.model), scheduler, x, 2, told)
    expected = edited(row, row.build(), euler_at(scheduler.sigmas[:-1].tolist()), x, 2, told)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@every_row
def test_a_pipeline_that_is_handed_latents_edits_each_picture_of_a_batch(row: Row) -> None:
    student = student_of(row, row.build())
    disturb(student)
    x, told = states(), {name: value for name, value in conditioning(row).items() if NEGATIVE_PREFIX not in name}
    pipeline = student.family.pipeline(root(student.model), student.scheduler(patch=student.family.token_positions))
    pipeline.set_progress_bar_config(disable=True)
    found = sample_by_pipeline(student.family, pipeline, x, told, student.facts.nfe)
    torch.testing.assert_close(found, sample_student(student, x, told), rtol=1e-4, atol=1e-4)


@every_row
def test_the_picture_may_have_another_size_than_what_is_made(row: Row) -> None:
    model, told = row.build(), conditioning(row)
    x = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(3))
    assert family_of(row.family, row.guidance).call(model, x, RAW, told).shape == x.shape


@every_row
@pytest.mark.parametrize("format", ["pipeline", "merged"])
def test_exports_read_back_as_the_student(row: Row, format: str, tmp_path) -> None:
    kind = getattr(diffusers, family_of(row.family).pipeline_name)
    absent = dict.fromkeys(kind._get_signature_keys(kind)[0])
    parts = {
        "vae": tiny_vae(row.family),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "transformer": row.build(),
    }
    kind(**{**absent, **parts}).save_pretrained(base := tmp_path / "base")
    student = student_of(row, row.build())
    disturb(student)
    student.facts = type(student.facts)(**{**vars(student.facts), "base": str(base)})
    folder = export(student, format, tmp_path / "out")
    if format == "pipeline":
        without = {name: None for name in absent if name not in parts}
        opened = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **without)
        assert type(opened) is kind
        x, told = states(batch=1), told_of(row)
        theirs = edited(row, opened.transformer, opened.scheduler, x, student.facts.nfe, told)
        torch.testing.assert_close(sample_student(student, x, told), theirs, rtol=1e-3, atol=1e-3)
