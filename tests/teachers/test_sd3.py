"""Texts of Stable Diffusion 3: both CLIPs side by side, then T5; and times that bfloat16 cannot tell apart."""

import diffusers
import torch
from tiny_pipeline import tokenizer
from torch.nn.functional import pad
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel
from zoo import ZOO, conditioning, states

from piflow_cli.teachers import family_of

FAMILY = family_of("sd3")
WORDS, WIDTH = 16, 20


def clip(width: int) -> CLIPTextModelWithProjection:
    sizes = {"hidden_size": width, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {"vocab_size": 8, "max_position_embeddings": WORDS, "bos_token_id": 1, "eos_token_id": 2}
    return CLIPTextModelWithProjection(CLIPTextConfig(**sizes, **words, projection_dim=width)).eval()


def test_prompts_are_both_clips_side_by_side_and_then_t5() -> None:
    torch.manual_seed(0)
    clips = [clip(6), clip(8)]
    t5 = T5EncoderModel(T5Config(vocab_size=8, d_model=WIDTH, d_kv=3, d_ff=8, num_layers=1, num_heads=2)).eval()
    encoders = [part for one in clips for part in (one, tokenizer(WORDS))]
    pipeline = diffusers.StableDiffusion3Pipeline(None, None, None, *encoders, t5, tokenizer(512))
    with torch.no_grad():
        found = FAMILY.encode_prompts(pipeline, ["a red fox", "a cat"])
        short, long = (
            tokenizer(length)(["a red fox"], padding="max_length", max_length=length, return_tensors="pt").input_ids
            for length in (WORDS, FAMILY.text_length)
        )
        seen = [one(short, output_hidden_states=True) for one in clips]
        both = pad(torch.cat([one.hidden_states[-2][0] for one in seen], dim=1), (0, WIDTH - 14))
        torch.testing.assert_close(found[0]["prompt_embeds"], torch.cat([both, t5(long)[0][0]]))
        pooled = torch.cat([one.text_embeds[0] for one in seen])
    torch.testing.assert_close(found[0]["pooled_prompt_embeds"], pooled)
    assert not torch.equal(found[0]["prompt_embeds"], found[1]["prompt_embeds"])


def test_a_network_in_bfloat16_is_told_the_time_in_full() -> None:
    model, told = ZOO["sd3"].build().bfloat16(), []
    model.time_text_embed.register_forward_pre_hook(lambda module, given: told.append(given[0]))
    sigma = torch.tensor([0.881, 0.8812], dtype=torch.float64)
    given = {name: value.bfloat16() for name, value in conditioning(ZOO["sd3"]).items()}
    with torch.no_grad():
        FAMILY.call(model, states().bfloat16(), sigma, given)
    assert told[0].dtype == torch.float32
    torch.testing.assert_close(told[0].double(), 1000 * sigma, rtol=1e-6, atol=0)
