"""Stable Diffusion against its stock pipelines: states, times, size, guidance, and texts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from zoo import LATENTS, ZOO, conditioning, states

from piflow_cli.core.guidance import Guidance
from piflow_cli.core.parameterisations.vp import BETAS
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import teacher_velocity
from piflow_cli.teachers.encoders import negative_of

every_unet = pytest.mark.parametrize("name", ["sd15", "sdxl"])


@every_unet
@pytest.mark.parametrize("guided", [True, False])
@torch.no_grad()
def test_the_stock_pipeline_s_ddim_is_our_euler(name: str, guided: bool) -> None:
    """Four steps from its noisiest state down to the data; XL guides against zeros."""
    row = ZOO[name]
    family, model, x = family_of(name, row.guidance), row.build(), states()
    first, last = BETAS["scaled_linear"]
    scheduler = DDIMScheduler(
        1000, first, last, "scaled_linear", clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    pipeline = family.pipeline(model, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    given = conditioning(row)
    told = given if guided else {key: value for key, value in given.items() if not key.startswith("negative_")}
    size = {"height": 8 * LATENTS[1], "width": 8 * LATENTS[2], "num_inference_steps": 4, "output_type": "latent"}
    theirs = pipeline(**family.pipeline_inputs(told), **size, latents=x).images
    a, b = scheduler.alphas_cumprod.sqrt(), (1 - scheduler.alphas_cumprod).sqrt()
    levels = (b / (a + b))[scheduler.timesteps]
    ours, guidance = family.parameterisation.first_state(x), Guidance(row.guidance if guided else 1.0)
    for sigma, following in zip(levels, [*levels[1:], torch.zeros(())]):
        ours = ours + (following - sigma).float() * teacher_velocity(
            family, model, guidance, ours, sigma.expand(2), given
        )
    assert scheduler.timesteps[0] == 999 and theirs.abs().max() > 1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_xl_is_told_its_size_and_no_text_is_zeros() -> None:
    row = ZOO["sdxl"]
    family, model, given = family_of("sdxl"), row.build(), conditioning(row)
    assert not any(value.any() for value in family.unconditional(model, given).values())
    assert all(value.any() for value in negative_of(given).values())
    x, sigma = states(), torch.full((2,), 0.5)
    found = family.call(model, x, sigma, given)
    family.vae_factor = 16
    assert not torch.allclose(found, family.call(model, x, sigma, given), atol=1e-4)


def test_texts_are_those_of_the_stock_pipelines() -> None:
    embeds, pooled = torch.randn(2, 7, 32), torch.randn(2, 24)
    one = SimpleNamespace(_execution_device="cpu", encode_prompt=lambda texts, device, count, guided: (embeds, None))
    both = SimpleNamespace(encode_prompt=lambda texts, do_classifier_free_guidance: (embeds, None, pooled, None))
    for name, pipeline in (("sd15", one), ("sdxl", both)):
        found = family_of(name).encode_prompts(pipeline, ["a", "b"])
        assert all(torch.equal(text["prompt_embeds"], value) for text, value in zip(found, embeds, strict=True))
        assert name == "sd15" or torch.equal(found[1]["pooled_prompt_embeds"], pooled[1])
