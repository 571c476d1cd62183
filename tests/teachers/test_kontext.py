"""FLUX.1 Kontext against its stock pipeline: packing, positions, time, sign, the picture it is shown."""

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from edit_data import PICTURE
from euler_steps import euler
from exports import export
from tiny_vae import tiny_vae
from torch import Tensor, nn
from zoo import EDITS, RAW, conditioning, disturb, states, student_of

from piflow_cli.core.guidance import Guidance
from piflow_cli.data.buckets import fit
from piflow_cli.sampling.denoise import sample_student, sample_teacher
from piflow_cli.students.shared_base import root
from piflow_cli.teachers import family_of
from piflow_cli.teachers.encoders import REFERENCE

ROW = EDITS["flux-kontext"]
FAMILY = family_of("flux-kontext", 2.5)


def edited(model: nn.Module, scheduler, x: Tensor, steps: int, told: dict[str, Tensor], image: object) -> Tensor:
    """What the stock pipeline, with a VAE, makes of noise (B, C, H, W) and a picture or its latents."""
    pipeline = diffusers.FluxKontextPipeline(scheduler, tiny_vae("flux-kontext"), None, None, None, None, model)
    pipeline.set_progress_bar_config(disable=True)
    height, width = 8 * x.shape[-2], 8 * x.shape[-1]
    texts = {name: value for name, value in told.items() if name != REFERENCE}
    latents = pipeline(
        image=image,
        **texts,
        height=height,
        width=width,
        max_area=height * width,
        guidance_scale=2.5,
        num_inference_steps=steps,
        latents=pipeline._pack_latents(x, *x.shape),
        output_type="latent",
        _auto_resize=False,
    ).images
    return pipeline._unpack_latents(latents, height, width, 8)


def test_the_stock_pipeline_agrees_on_the_teachers_velocity() -> None:
    model, x, told = ROW.build(), states(), conditioning(ROW)
    theirs = edited(model, euler(3), x, 3, told, told[REFERENCE])
    ours = sample_teacher(FAMILY, model, x, told, 3, 2.0, Guidance())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    other = sample_teacher(FAMILY, model, x, {**told, REFERENCE: -told[REFERENCE]}, 3, 2.0, Guidance())
    assert (other - ours).abs().max() > 0.01


@pytest.mark.parametrize("policy", ["gm", "dx", "momentum"])
def test_the_stock_pipeline_samples_what_we_sample(policy: str) -> None:
    student = student_of(ROW, ROW.build(), policy)
    disturb(student)
    x, told = states(), conditioning(ROW)
    scheduler = student.scheduler(temperature=0.4, patch=student.family.token_positions)
    theirs = edited(root(student.model), scheduler, x, 2, told, told[REFERENCE])
    torch.testing.assert_close(sample_student(student, x, told, temperature=0.4), theirs, rtol=1e-4, atol=1e-4)


def test_a_picture_is_shown_as_the_stock_pipeline_encodes_it() -> None:
    model, x = ROW.build(), states(batch=1)
    told = {name: value[:1] for name, value in conditioning(ROW).items()}
    with torch.no_grad():
        told[REFERENCE], _ = FAMILY.encode_images(tiny_vae("flux-kontext"), fit(PICTURE, PICTURE.size)[None])
    theirs = edited(model, euler(2), x, 2, told, PICTURE)
    torch.testing.assert_close(sample_teacher(FAMILY, model, x, told, 2, 2.0, Guidance()), theirs, rtol=1e-4, atol=1e-4)


def test_the_picture_may_have_another_size_than_what_is_made() -> None:
    model, told = ROW.build(), conditioning(ROW)
    x = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(3))
    found = FAMILY.call(model, x, RAW, told)
    assert found.shape == x.shape
    ids = FAMILY.positions(x, told)
    assert ids.shape == (2 * 3 + 4 * 6, 3) and ids[:6, 0].eq(0).all() and ids[6:, 0].eq(1).all()


@pytest.mark.parametrize("format", ["pipeline", "merged"])
def test_exports_read_back_as_the_student(format: str, tmp_path) -> None:
    parts = {
        "vae": tiny_vae("flux-kontext"),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "transformer": ROW.build(),
    }
    absent = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    diffusers.FluxKontextPipeline(**parts, **absent).save_pretrained(base := tmp_path / "base")
    student = student_of(ROW, ROW.build())
    disturb(student)
    student.facts = type(student.facts)(**{**vars(student.facts), "base": str(base)})
    folder = export(student, format, tmp_path / "out")
    if format == "pipeline":
        opened = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **absent)
        x, told = states(), conditioning(ROW)
        theirs = edited(opened.transformer, opened.scheduler, x, student.facts.nfe, told, told[REFERENCE])
        torch.testing.assert_close(sample_student(student, x, told), theirs, rtol=1e-3, atol=1e-3)
