"""Z-Image: time runs from noise to data, the network emits x_0 - eps, and it unpatchifies by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.heads import HeadSite
from .base import Conditioning, Network, matching
from .encoders import negative_of
from .long_texts import chat_lengths
from .text_to_image import TextToImageFamily
from .texts import MASKS, longest_masked, masked, texts_of

FINAL_LAYER = "all_final_layer.2-1"
MOST_EMBEDDING_CHANNELS = 256


class ZImageFamily(TextToImageFamily):
    """Conditioning: ``prompt_embeds`` (B, L, D) and ``prompt_embeds_mask`` (B, L), zero where there is no token."""

    name = "z-image"
    model_name = "ZImageTransformer2DModel"
    pipeline_name = "ZImagePipeline"
    token_positions = None
    text_length = 512
    read_on_host = MASKS
    trained_in_full = (f"{FINAL_LAYER}.adaLN_modulation.1",)
    asks_for_dtype = ("t_embedder",)

    def head_site(self, model: Network) -> HeadSite:
        return HeadSite(
            f"{FINAL_LAYER}.linear",
            4,
            channel_major=False,
            tap=FINAL_LAYER,
            tap_at="keyword",
            tap_key="c",
            unpatchify=True,
            negated=True,
        )

    def adapter_targets(self, model: Network) -> list[str]:
        return matching(model, r".*\.feed_forward\.w[123]|t_embedder\.mlp\.[02]")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        captions = texts_of(conditioning)
        images = list(x.unsqueeze(2).unbind(0))
        return -torch.stack(model(images, 1 - sigma.to(x.dtype), captions, return_dict=False)[0]).squeeze(2)

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        negative = negative_of(conditioning)
        if not negative:
            return {"prompt_embeds": texts_of(conditioning), "guidance_scale": 0.0}
        # The pipeline counts its scale from the conditional velocity, one less than everywhere else.
        return {
            "prompt_embeds": texts_of(conditioning),
            "negative_prompt_embeds": texts_of(negative),
            "guidance_scale": self.guidance - 1,
        }

    def longest_conditioning(self, model: Network) -> Conditioning:
        return longest_masked(self.text_length, model.config.cap_feat_dim)

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        options = {"do_classifier_free_guidance": False, "max_sequence_length": self.text_length}
        return [masked(embeds) for embeds in pipeline.encode_prompt(list(texts), **options)[0]]

    def token_counts(self, pipeline: Any, texts: Sequence[str]) -> list[int]:
        return chat_lengths(pipeline.tokenizer, texts, thinking=True)

    def embedding_dim(self, model: Network) -> int:
        return min(model.config.dim, MOST_EMBEDDING_CHANNELS)
