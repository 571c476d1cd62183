"""Texts of Wan, what its networks are told of time, and bases of its class that are another model."""

import json
from pathlib import Path

import diffusers
import pytest
import torch
from tiny_pipeline import tokenizer
from tiny_vae import tiny_ti2v_vae
from transformers import UMT5Config, UMT5EncoderModel
from zoo import RAW, ZOO, conditioning, facts_of, states, student_of

from piflow_cli.core.timegrid import to_sigma
from piflow_cli.errors import UsageError
from piflow_cli.presets.resolve import load
from piflow_cli.teachers import family_of
from piflow_cli.teachers.folders import on_base, outline_folder

FAMILY, ROW = family_of("wan"), ZOO["wan"]
TI2V = family_of("wan-ti2v")
# Wan 2.1 and Wan 2.2 TI2V, and what their pipelines are told.
BOTH = pytest.mark.parametrize(("name", "token_times"), [("wan", False), ("wan-ti2v", True)])


def pipeline() -> diffusers.WanPipeline:
    """The stock pipeline with its text encoder alone, tiny."""
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=8, d_model=6, d_kv=3, d_ff=8, num_layers=1, num_heads=2)
    return diffusers.WanPipeline(tokenizer(512), UMT5EncoderModel(config).eval(), None, None)


def test_a_text_is_what_umt5_makes_of_it_and_zeros() -> None:
    made = pipeline()
    with torch.no_grad():
        found = FAMILY.encode_prompts(made, ["a red  fox", ""])
        ids = made.tokenizer("a red fox", return_tensors="pt").input_ids
        whole = made.text_encoder(ids)[0][0]
    # Three words and an end, or the end alone; the pipeline's own call takes 512 tokens.
    assert [text["prompt_embeds"].shape for text in found] == [(512, 6)] * 2
    torch.testing.assert_close(found[0]["prompt_embeds"][:4], whole, rtol=1e-4, atol=1e-5)
    for text, length in zip(found, (4, 1), strict=True):
        assert text["prompt_embeds"][length - 1].any() and not text["prompt_embeds"][length:].any()
    assert FAMILY.token_counts(made, ["a red  fox", ""]) == [4, 1]


def test_times_are_told_in_full_precision() -> None:
    """Two times that bfloat16 does not tell apart."""
    model, x, given = ROW.build().bfloat16(), states(ROW).bfloat16(), conditioning(ROW)
    model.condition_embedder.time_embedder.float()
    given = {name: value.bfloat16() for name, value in given.items()}
    times = torch.full((2,), 0.5), torch.full((2,), 0.5004)
    one, other = (FAMILY.call(model, x, sigma, given) for sigma in times)
    assert times[0].bfloat16().equal(times[1].bfloat16()) and not one.equal(other)


@BOTH
def test_the_network_is_called_as_by_its_stock_pipeline(name: str, token_times: bool) -> None:
    """Bit by bit, guidance and all: Wan 2.2 TI2V is told the time of each token."""
    family, model, x, calls = family_of(name), ROW.build(), states(ROW), []
    model.register_forward_hook(lambda module, args, told, output: calls.append((told, output[0])), with_kwargs=True)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
    made = diffusers.WanPipeline(None, None, None, scheduler, model, expand_timesteps=token_times)
    made.set_progress_bar_config(disable=True)
    given = conditioning(ROW)
    made(**given, latents=x, height=64, width=96, num_frames=9, num_inference_steps=2, output_type="latent")
    theirs, calls[:] = list(calls), []
    negative = {"prompt_embeds": given["negative_prompt_embeds"]}
    for place, (told, output) in enumerate(theirs):
        sigma = scheduler.sigmas[place // 2].expand(2)
        with torch.no_grad():
            ours = family.call(model, told["hidden_states"], sigma, negative if place % 2 else given)
        assert ours.equal(output) and calls.pop()[0].keys() <= told.keys()
        # Three frames of four by six tokens.
        assert told["timestep"].shape == ((2, 3 * 4 * 6) if token_times else (2,))
    assert len(theirs) == 4


def test_a_new_student_of_wan_ti2v_has_the_velocity_of_its_teacher() -> None:
    """Its head takes one embedding of those of all tokens."""
    row = ZOO["wan-ti2v"]
    model, x, given = row.build(), states(row), conditioning(row)
    with torch.no_grad():
        expected = TI2V.velocity(model, x, to_sigma(RAW, facts_of(row).shift), given)
        student = student_of(row, model, "dx")
        found = student.policy(student.model, x, RAW, given).velocity(x, RAW)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_state_of_one_time_is_what_one_time_for_all_tokens_gives() -> None:
    """Wan 2.2 TI2V of texts alone is the function that a network told one time computes, but for rounding."""
    model, x, given = ROW.build(), states(ROW), conditioning(ROW)
    with torch.no_grad():
        each, one = (family.call(model, x, RAW, given) for family in (TI2V, FAMILY))
    torch.testing.assert_close(each, one, rtol=1e-4, atol=1e-5)


def test_videos_of_ti2v_pass_its_own_autoencoder(tmp_path: Path) -> None:
    vae = tiny_ti2v_vae()
    vae.save_pretrained(tmp_path / "vae")
    sized = TI2V.sized_by(tmp_path)
    assert (sized.vae_factor, sized.size_multiple, sized.frame_rate) == (16, 32, 24)
    shape = sized.latent_shape(ROW.config, (96, 64), 5)
    assert shape == (4, 2, 4, 6)
    with torch.no_grad():
        mean, _ = sized.encode_images(vae, torch.rand(1, 3, 5, 64, 96) * 2 - 1)
        assert mean.shape == (1, *shape) and sized.decode_latents(vae, mean).shape == (1, 3, 5, 64, 96)


TOKEN_TIMES = {"expand_timesteps": True}


@pytest.mark.parametrize(
    ("name", "changes", "index", "message"),
    [
        ("wan", {"in_channels": 9}, {}, "is told a picture, and the family wan is of texts alone"),
        ("wan", {"image_dim": 8}, {}, "is told a picture, and the family wan is of texts alone"),
        ("wan", {}, {"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "holds two networks"),
        ("wan", {}, TOKEN_TIMES, "is told a time for each token, unlike those of the family wan"),
        ("wan-ti2v", {"in_channels": 9}, TOKEN_TIMES, "is told a picture, and the family wan-ti2v is of texts alone"),
        ("wan-ti2v", {}, {}, "is told one time for all tokens, unlike those of the family wan-ti2v"),
        ("wan-ti2v", {}, {"expand_timesteps": False}, "is told one time for all tokens"),
    ],
)
def test_other_networks_of_the_class_are_refused(
    tmp_path: Path, name: str, changes: dict, index: dict, message: str
) -> None:
    write_base(tmp_path, changes, index)
    with pytest.raises(UsageError, match=message):
        family_of(name).outline(tmp_path)


def write_base(folder: Path, changes: dict, index: dict) -> None:
    """The configs of a pipeline of the class, without weights."""
    (folder / "transformer").mkdir()
    config = {"_class_name": ROW.model_name, **ROW.config, **changes}
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps({"transformer_2": [None, None], **index}))


@BOTH
def test_the_family_of_a_base_of_the_other_kind_is_named(tmp_path: Path, name: str, token_times: bool) -> None:
    write_base(tmp_path, {}, {"expand_timesteps": not token_times})
    with pytest.raises(UsageError) as caught:
        family_of(name).outline(tmp_path)
    (other,) = {"wan", "wan-ti2v"} - {name}
    assert f"whose teacher.family is {other}," in caught.value.hint
    assert family_of(other).outline(tmp_path).config.in_channels == 4


@pytest.mark.parametrize(("preset", "base"), [("wan21-1.3b", "wan22-5b"), ("wan22-5b", "wan21-1.3b")])
def test_the_shipped_base_of_the_other_preset_is_refused_before_it_is_fetched(
    monkeypatch: pytest.MonkeyPatch, preset: str, base: str
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *given, **options: pytest.fail("the Hub was asked"))
    teacher, other = load(preset).teacher, load(base).teacher
    family = family_of(teacher.family)
    assert family.outline(outline_folder(family, teacher)).config.num_layers == 30
    with pytest.raises(UsageError, match=f"unlike those of the family {teacher.family}") as caught:
        family.outline(outline_folder(family, on_base(teacher, other.base)))
    assert f"teacher.family is {other.family}," in caught.value.hint


def test_a_network_alone_may_be_of_either_kind(tmp_path: Path) -> None:
    write_base(tmp_path, {}, {})
    for family in (FAMILY, TI2V):
        assert family.outline(tmp_path / "transformer").config.in_channels == 4
