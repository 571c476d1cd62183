"""A whole FLUX pipeline of tiny random parts, text encoders and tokenizers too."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from tiny_vae import tiny_vae
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)
from zoo import ZOO


def tokenizer(length: int) -> PreTrainedTokenizerFast:
    """Words as tokens, and an end."""
    words = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "a", "red", "fox", "cat"])}
    whole = Tokenizer(WordLevel(words, unk_token="<unk>"))
    whole.pre_tokenizer = Whitespace()
    whole.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, model_max_length=length, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def whole_pipeline(folder: Path, family: str = "flux", factor: int = 8, words: int = 512) -> diffusers.FluxPipeline:
    """A pipeline of the class of FLUX in ``folder``: a VAE of ``factor``, and texts of at most ``words`` tokens."""
    torch.manual_seed(0)
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=8,
            hidden_size=24,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    t5 = T5EncoderModel(T5Config(vocab_size=8, d_model=32, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipeline = diffusers.FluxPipeline(
        scheduler,
        tiny_vae(family, factor),
        clip.eval(),
        tokenizer(16),
        t5.eval(),
        tokenizer(words),
        ZOO[family].build(),
    )
    pipeline.save_pretrained(folder)
    return pipeline
