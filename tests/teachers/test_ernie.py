"""ERNIE-Image: texts as its pipeline reads them without the model that writes others, and pictures as it shows them."""

import json

import diffusers
import pytest
import torch
from helpers import seeded
from tiny_pipeline import tokenizer
from tiny_vae import tiny_vae
from transformers import Mistral3Config, Mistral3Model, MistralConfig, PixtralVisionConfig
from zoo import ZOO, conditioning, states

from piflow_cli.teachers import family_of

FAMILY = family_of("ernie-image")


def encoder() -> Mistral3Model:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "head_dim": 4, "num_attention_heads": 2}
    text = MistralConfig(vocab_size=8, num_key_value_heads=1, **sizes)
    picture = PixtralVisionConfig(**{**sizes, "num_hidden_layers": 1}, image_size=16, patch_size=8)
    return Mistral3Model(Mistral3Config(text_config=text, vision_config=picture)).eval()


def test_a_text_is_the_last_but_one_hidden_state_of_its_tokens(tmp_path) -> None:
    saved = encoder()
    pipeline = diffusers.ErnieImagePipeline(
        None, None, saved, tokenizer(4096), diffusers.FlowMatchEulerDiscreteScheduler()
    )
    pipeline.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    # What a base on the Hub names, and what is not fetched of it.
    enhancer = {"pe": ["transformers", "Ministral3ForCausalLM"], "pe_tokenizer": ["transformers", "TokenizersBackend"]}
    index.write_text(json.dumps(json.loads(index.read_text()) | enhancer))
    found = FAMILY.text_pipeline(tmp_path)
    assert found.pe is None and found.text_encoder.dtype == torch.bfloat16
    texts = ["a red fox", "fox " * 1100]
    with torch.no_grad():
        encoded = FAMILY.encode_prompts(pipeline, texts)
        ids = [tokenizer(4096)(text, return_tensors="pt").input_ids for text in texts]
        whole = [saved(row, output_hidden_states=True).hidden_states[-2][0] for row in ids]
    torch.testing.assert_close(encoded[0]["prompt_embeds"], whole[0], rtol=1e-4, atol=1e-5)
    # What came after had no part in it.
    torch.testing.assert_close(encoded[1]["prompt_embeds"], whole[1][:1024], rtol=1e-4, atol=1e-5)
    assert [int(text["prompt_embeds_mask"].sum()) for text in encoded] == [4, 1024]


@pytest.mark.parametrize("guided", [True, False])
def test_a_picture_is_shown_as_the_stock_pipeline_shows_it(guided: bool) -> None:
    vae, row = tiny_vae("ernie-image"), ZOO["ernie-image"]
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=4.0)
    pipeline = diffusers.ErnieImagePipeline(row.build(), vae, None, None, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    told, family = conditioning(row), family_of("ernie-image", 4.0)
    told = told if guided else {name: value for name, value in told.items() if not name.startswith("negative_")}
    asked = {"height": 64, "width": 96, "num_inference_steps": 1, "latents": family.to_pipeline(states())}
    shown, latents = (
        pipeline(**family.pipeline_inputs(told), **asked, output_type=kind).images for kind in ("pt", "latent")
    )
    with torch.no_grad():
        ours = family.decode_latents(vae, family.from_pipeline(latents, 8, 12))
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), shown, rtol=1e-4, atol=1e-5)


def test_pictures_are_encoded_to_what_shows_them() -> None:
    vae, picture = tiny_vae("ernie-image"), torch.rand(1, 3, 16, 32, generator=seeded()) * 2 - 1
    with torch.no_grad():
        mean, _ = FAMILY.encode_images(vae, picture)
        plain = vae.decode(vae.encode(picture).latent_dist.mode()).sample
        torch.testing.assert_close(FAMILY.decode_latents(vae, mean), plain, rtol=1e-4, atol=1e-5)
