"""LTX-Video: what its network, its autoencoder and its scheduler are told, against the stock pipeline."""

import inspect
import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from tiny_pipeline import tokenizer
from tiny_vae import tiny_ltx_vae
from transformers import T5Config, T5EncoderModel
from zoo import RAW, TEXT, ZOO, conditioning, states

from piflow_cli.errors import RunError, UsageError
from piflow_cli.presets.resolve import load
from piflow_cli.teachers import family_of
from piflow_cli.teachers.encoders import ATTENTION_MASK, lengthened, negative_of

FAMILY, ROW = family_of("ltx"), ZOO["ltx"]
LENGTH = FAMILY.text_length


def test_a_text_is_what_t5_makes_of_it_beside_its_padding() -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=8, d_model=6, d_kv=3, d_ff=8, num_layers=1, num_heads=2)
    words, encoder = tokenizer(512), T5EncoderModel(config).eval()
    made = diffusers.LTXPipeline(None, None, encoder, words, None)
    with torch.no_grad():
        found = FAMILY.encode_prompts(made, ["a red fox", ""])
        ids = words("a red fox", padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
        beside, alone = encoder(ids)[0][0, :4], encoder(ids[:, :4])[0][0]
    # Three words and an end, or the end alone.
    assert [text["prompt_embeds"].shape for text in found] == [(4, 6), (1, 6)]
    assert all(text[ATTENTION_MASK].all() and len(text[ATTENTION_MASK]) == len(text["prompt_embeds"]) for text in found)
    torch.testing.assert_close(found[0]["prompt_embeds"], beside)
    assert not torch.allclose(beside, alone, atol=1e-3)
    assert FAMILY.token_counts(made, ["a red fox", ""]) == [4, 1]


def test_the_network_is_called_as_by_its_stock_pipeline() -> None:
    """Guidance, texts of 128 tokens under their mask, positions in pixels and seconds, and times."""
    model, x, calls = ROW.build(), states(ROW), []
    model.register_forward_hook(lambda module, args, told, output: calls.append((told, output[0])), with_kwargs=True)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
    made = FAMILY.pipeline(model, scheduler)
    made.set_progress_bar_config(disable=True)
    given = conditioning(ROW)
    whole = {name: lengthened(value, LENGTH) for name, value in given.items()}
    made(
        **whole, latents=made._pack_latents(x), height=256, width=384, num_frames=17, num_inference_steps=2,
        output_type="latent",
    )  # fmt: skip
    theirs, calls[:] = list(calls), []
    halves = {name: torch.cat([lengthened(value, TEXT), given[name]]) for name, value in negative_of(given).items()}
    for place, (told, output) in enumerate(theirs):
        state = made._unpack_latents(told["hidden_states"], *x.shape[2:])
        with torch.no_grad():
            ours = FAMILY.call(model, state, scheduler.sigmas[place].expand(4), halves)
        torch.testing.assert_close(made._pack_latents(ours), output, rtol=1e-5, atol=1e-5)
        mine, _ = calls.pop()
        for name in ("num_frames", "height", "width", "rope_interpolation_scale"):
            assert mine[name] == told[name]
        assert mine["timestep"].equal(told["timestep"]) and told["timestep"].shape == (4,)
    assert len(theirs) == 2 and theirs[0][0]["rope_interpolation_scale"] == (8 / 25, 32, 32)


def test_the_pipeline_and_its_own_guidance_are_the_stock_ones() -> None:
    told = inspect.signature(diffusers.LTXPipeline.__call__).parameters
    preset = load("ltx-video")
    assert told["frame_rate"].default == FAMILY.frame_rate and told["max_sequence_length"].default == LENGTH
    assert told["guidance_scale"].default == preset.teacher.guidance and told["guidance_rescale"].default == 0.0
    size = (told["width"].default, told["height"].default)
    assert (preset.data.sizes, preset.data.frames) == ((size,), told["num_frames"].default)


def test_times_are_told_in_full_precision() -> None:
    """Two times that bfloat16 does not tell apart."""
    model, x = ROW.build().bfloat16(), states(ROW).bfloat16()
    given = {
        name: value if value.dtype == torch.bool else value.bfloat16() for name, value in conditioning(ROW).items()
    }
    times = torch.full((2,), 0.5), torch.full((2,), 0.5004)
    one, other = (FAMILY.call(model, x, sigma, given) for sigma in times)
    assert times[0].bfloat16().equal(times[1].bfloat16()) and not one.equal(other)


def test_the_shift_of_the_preset_is_that_of_the_stock_schedule_in_its_middle() -> None:
    """By the scheduler of the published base: shifted by the number of tokens, and stretched to end at 0.1."""
    preset = load("ltx-video")
    (width, height), frames, steps = preset.data.sizes[0], preset.data.frames, 50
    tokens = ((frames - 1) // 8 + 1) * (height // 32) * (width // 32)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
    mu = 0.95 + (2.05 - 0.95) * (tokens - 1024) / (4096 - 1024)
    raw = np.linspace(1, 1 / steps, steps)
    scheduler.set_timesteps(sigmas=raw, mu=mu)
    levels = scheduler.sigmas[:-1].numpy().astype(float)
    shifts = levels * (1 - raw) / np.clip(raw * (1 - levels), 1e-9, None)
    assert tokens == 7392 and levels[-1] == pytest.approx(0.1)
    assert shifts[steps // 2] == pytest.approx(preset.policy.shift, abs=0.05)
    high = shifts[1:][levels[1:] > 0.85]
    assert len(high) > steps // 2 and high.min() > 17.6 and high.max() < 18.6


@pytest.mark.parametrize("told", [False, True])
def test_latents_are_decoded_as_by_the_stock_pipeline(told: bool) -> None:
    """Autoencoders since 0.9.1 are told a time, which is 0 where the pipeline is told none."""
    model, x, vae = ROW.build(), states(ROW), tiny_ltx_vae(3, 4, timestep_conditioning=told, scaling_factor=0.5)
    made = diffusers.LTXPipeline(diffusers.FlowMatchEulerDiscreteScheduler(), vae, None, None, model)
    made.set_progress_bar_config(disable=True)
    given = FAMILY.pipeline_inputs({name: value for name, value in conditioning(ROW).items() if "negative" not in name})
    size = {"height": 256, "width": 384, "num_frames": 17, "num_inference_steps": 1}
    latents = made._pack_latents(x)
    videos = made(**given, **size, latents=latents, output_type="pt")[0]
    raw = made(**given, **size, latents=latents, output_type="latent")[0]
    with torch.no_grad():
        ours = FAMILY.decode_latents(vae, FAMILY.from_pipeline(raw, 8, 12))
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), videos.transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_noise_of_a_decoder_comes_again_and_leaves_that_of_others_alone() -> None:
    vae = tiny_ltx_vae(3, timestep_conditioning=True, decoder_inject_noise=(True,) * 4)
    with torch.no_grad():
        for name, value in vae.named_parameters():
            if "per_channel_scale" in name:
                value.fill_(1.0)
        latents = states(ROW)[:, :, :, :2, :2]
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        one = FAMILY.decode_latents(vae, latents)
        assert torch.rand(3).equal(expected) and FAMILY.decode_latents(vae, latents).equal(one)


def test_the_published_autoencoder_has_positions_of_32_pixels(tmp_path: Path) -> None:
    """It cuts patches of 4 pixels, and halves three times; later ones state the factor."""
    vae = tmp_path / "vae" / "config.json"
    vae.parent.mkdir()
    older = {"block_out_channels": [128, 256, 512, 512], "patch_size": 4}
    for config in (
        {**older, "spatio_temporal_scaling": [True, True, True, False]},
        {**older, "spatio_temporal_scaling": [True] * 4, "spatial_compression_ratio": 32},
    ):
        vae.write_text(json.dumps(config))
        sized = FAMILY.sized_by(tmp_path)
        assert (sized.vae_factor, sized.size_multiple) == (32, 32)
        assert sized.latent_shape({"in_channels": 128}, (704, 512), 161) == (128, 21, 16, 22)
    for damage in ({"spatio_temporal_scaling": 3}, {"spatio_temporal_scaling": [True], "patch_size": 0}):
        vae.write_text(json.dumps({**older, **damage}))
        with pytest.raises(RunError, match="is damaged"):
            FAMILY.sized_by(tmp_path)


def test_ltx_2_is_refused_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps({"_class_name": "LTX2VideoTransformer3DModel"}))
    with pytest.raises(UsageError, match="holds a LTX2VideoTransformer3DModel, not a LTXVideoTransformer3DModel"):
        FAMILY.outline(tmp_path)


def test_the_head_taps_one_embedding_a_sample() -> None:
    model, site, seen = ROW.build(), FAMILY.head_site(ROW.build()), []
    model.get_submodule(site.tap).register_forward_hook(lambda module, args, output: seen.append(output[site.tap_key]))
    with torch.no_grad():
        FAMILY.call(model, states(ROW), RAW, conditioning(ROW))
    assert seen[0].shape == (2, FAMILY.embedding_dim(model))
