"""Krea 2: packed latents, text as a stack of hidden states of several layers, classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.heads import HeadSite
from ..core.tensors import to_device
from .base import Conditioning, Network, matching
from .encoders import lengthened, negative_of
from .packed import image_ids
from .packing import POSITIONS, SIDE
from .qwen import QwenVaeFamily
from .texts import MASK, MASKS, longest_whole

FINAL_LAYER = "final_layer"


class Krea2Family(QwenVaeFamily):
    """Conditioning: ``prompt_embeds`` (B, L, layers, D) and ``prompt_embeds_mask`` (B, L), False at no token.

    The pipeline pads every text to 512 tokens, 31 MB of them. What is masked changes nothing, since text has no
    positions here, and is left out.
    """

    name = "krea2"
    model_name = "Krea2Transformer2DModel"
    pipeline_name = "Krea2Pipeline"
    read_on_host = MASKS
    trained_in_full = ()
    config_not_published = ()

    def head_site(self, model: Network) -> HeadSite:
        return HeadSite(
            f"{FINAL_LAYER}.linear", POSITIONS, channel_major=True, tap=FINAL_LAYER, tap_at="input", tap_key=1
        )

    def adapter_targets(self, model: Network) -> list[str]:
        return matching(model, r"transformer_blocks\.\d+\.ff\.(gate|up|down)|time_embed\.linear_[12]")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        height, width = x.shape[-2:]
        texts = conditioning["prompt_embeds"].shape[1]
        return self.through(
            model,
            x,
            sigma,
            conditioning,
            position_ids=_position_ids(texts, height // SIDE, width // SIDE, x),
            encoder_attention_mask=_mask(conditioning[MASK], x.device),
        )

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        device = conditioning["prompt_embeds"].device
        # The pipeline lets both halves have the positions of one.
        longest = max(value.shape[1] for value in conditioning.values())
        texts = {name: _moved(lengthened(value, longest), device) for name, value in conditioning.items()}
        # It counts its scale from the conditional velocity, one less than everywhere else.
        return {**texts, "guidance_scale": self.guidance - 1 if negative_of(conditioning) else 0.0}

    def longest_conditioning(self, model: Network) -> Conditioning:
        layers, width = model.config.num_text_layers, model.config.text_hidden_dim
        mask = torch.ones(1, self.text_length, dtype=torch.bool, device="cpu")
        return {**longest_whole(self.text_length, layers, width), MASK: mask}

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        embeds, masks = pipeline.encode_prompt(list(texts), max_sequence_length=self.text_length)
        return [{"prompt_embeds": text[mask], MASK: mask[mask]} for text, mask in zip(embeds, masks)]

    def token_counts(self, pipeline: Any, texts: Sequence[str]) -> list[int]:
        # The template before the text is encoded and then dropped; its end counts.
        whole = [pipeline.prompt_template_encode_prefix + text for text in texts]
        own = pipeline.prompt_template_encode_num_suffix_tokens - pipeline.prompt_template_encode_start_idx
        return [len(pipeline.tokenizer(text).input_ids) + own for text in whole]


def _mask(mask: Tensor, device: torch.device) -> Tensor | None:
    """Under a mask attention has no fast kernel, and texts of one length have nothing to mask."""
    return None if mask.all() else to_device(mask, device)


def _moved(value: Tensor, device: torch.device) -> Tensor:
    """``value`` on ``device``; a mask that hides nothing is made there, which asks for no copy."""
    if value.dtype == torch.bool and value.all():
        return torch.ones_like(value, device=device)
    return to_device(value, device)


def _position_ids(texts: int, rows: int, columns: int, like: Tensor) -> Tensor:
    """Positions (texts + rows * columns, 3), float32: zero of the text, then (0, row, column)."""
    pictures = image_ids(rows, columns, like.new_empty(0, dtype=torch.float32))
    return torch.cat([pictures.new_zeros(texts, 3), pictures])
