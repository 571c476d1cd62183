"""Texts of Sana: what Gemma makes of a prompt after an instruction, which is left out; no prompt stands alone."""

from inspect import signature

import diffusers
import torch
from tiny_pipeline import tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

from piflow_cli.teachers import family_of

FAMILY = family_of("sana")


def words() -> PreTrainedTokenizerFast:
    """Words as tokens, after a beginning: Gemma's texts have no end."""
    made = tokenizer(512)
    made.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def pipeline() -> diffusers.SanaPipeline:
    """The stock pipeline with its text encoder alone, tiny."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 6, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 4}
    config = Gemma2Config(vocab_size=8, **sizes, num_attention_heads=2, num_key_value_heads=1)
    return diffusers.SanaPipeline(words(), Gemma2Model(config).eval(), None, None, None)


def test_of_the_instruction_the_first_and_the_last_token_stay() -> None:
    made = pipeline()
    instruction = "\n".join(signature(made.__call__).parameters["complex_human_instruction"].default)
    with torch.no_grad():
        [found] = FAMILY.encode_prompts(made, [" A red FOX "])
        ids = words()(f"{instruction}a red fox", return_tensors="pt").input_ids
        whole = made.text_encoder(ids)[0][0]
    # The last of the instruction, and three words.
    torch.testing.assert_close(found["prompt_embeds"], torch.cat([whole[:1], whole[-4:]]), rtol=1e-4, atol=1e-5)
    assert found["prompt_attention_mask"].tolist() == [True] * 5
    assert FAMILY.token_counts(made, [" A red FOX "]) == [5]


def test_the_empty_prompt_is_the_pipelines_other_half() -> None:
    made = pipeline()
    with torch.no_grad():
        [found] = FAMILY.encode_prompts(made, [""])
        _, _, empty, mask = made.encode_prompt("a fox", True, "")
    torch.testing.assert_close(found["prompt_embeds"], empty[0][mask[0].bool()], rtol=1e-4, atol=1e-5)
    assert len(found["prompt_embeds"]) == 1
