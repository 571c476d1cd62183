"""Chroma's texts keep one token of their padding, its network masks no less while it learns, and what tells time."""

import diffusers
import torch
from tiny_pipeline import tokenizer
from torch import nn
from transformers import T5Config, T5EncoderModel
from zoo import RAW, ZOO, conditioning, states

from piflow_cli.core.heads import tap_embedding
from piflow_cli.teachers import family_of

FAMILY = family_of("chroma")


def test_prompts_keep_one_token_of_their_padding() -> None:
    torch.manual_seed(0)
    t5 = T5EncoderModel(T5Config(vocab_size=8, d_model=6, d_kv=3, d_ff=8, num_layers=1, num_heads=2)).eval()
    pipeline = diffusers.ChromaPipeline(None, None, t5, tokenizer(512), None)
    with torch.no_grad():
        found = FAMILY.encode_prompts(pipeline, ["a red fox", "fox " * 600])
        given = tokenizer(512)(["a red fox"], padding="max_length", max_length=512, return_tensors="pt")
        whole = t5(given.input_ids, attention_mask=given.attention_mask)[0][0]
    # Three words, their end, and one token of padding.
    torch.testing.assert_close(found[0]["prompt_embeds"], whole[:5])
    assert [text["prompt_attention_mask"].tolist() for text in found] == [[True] * 5, [True] * 512]


def test_a_checkpointed_network_masks_what_it_masks_otherwise() -> None:
    """diffusers hands its single blocks no mask then."""
    model, x, given = ZOO["chroma"].build(), states(), conditioning(ZOO["chroma"], (7, 4))
    with torch.no_grad():
        expected = FAMILY.call(model, x, RAW, given)
    model.enable_gradient_checkpointing()
    torch.testing.assert_close(FAMILY.call(model, x, RAW, given), expected, rtol=1e-4, atol=1e-5)


def test_the_head_is_told_the_scale_of_the_last_norm() -> None:
    model, head = ZOO["chroma"].build(), nn.Module()
    tap_embedding(model, FAMILY.head_site(model), head)
    with torch.no_grad():
        FAMILY.call(model, states(), RAW, conditioning(ZOO["chroma"]))
        rows = model.distilled_guidance_layer(model.time_text_embed(1000 * RAW.float()))
    torch.testing.assert_close(head.embedding[:, -1], rows[:, -1])
    assert rows.shape[2] == FAMILY.embedding_dim(model) and not torch.allclose(rows[0, -1], rows[1, -1])
