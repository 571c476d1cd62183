"""FLUX.1: packed latents, guidance as an input of the network, or by two halves where it has no such input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .base import Conditioning, Network, matching
from .encoders import negative_of
from .packed import PackedFamily, image_ids
from .packing import SIDE
from .texts import longest_whole


class FluxFamily(PackedFamily):
    """FLUX.1. Conditioning: ``prompt_embeds`` (B, L, D) of T5, padded, and ``pooled_prompt_embeds`` (B, E) of CLIP."""

    name = "flux"
    model_name = "FluxTransformer2DModel"
    pipeline_name = "FluxPipeline"
    length_from = "tokenizer_2"
    embeds_guidance = True

    def adapter_targets(self, model: Network) -> list[str]:
        single = r"single_transformer_blocks\.\d+\.(proj_mlp|proj_out)"
        return matching(model, rf"{single}|.*\.(ff|ff_context)\.net\.(0\.proj|2)|.*\.timestep_embedder\.linear_[12]")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        return self.through(
            model,
            x,
            sigma,
            conditioning,
            guidance=self.scales(x),
            pooled_projections=conditioning["pooled_prompt_embeds"],
            img_ids=self.positions(x, conditioning),
            txt_ids=x.new_zeros(conditioning["prompt_embeds"].shape[1], 3),
        )

    def positions(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        """Positions (tokens, 3) of the latents ``x`` (B, C, H, W)."""
        return image_ids(x.shape[-2] // SIDE, x.shape[-1] // SIDE, x)

    def longest_conditioning(self, model: Network) -> Conditioning:
        longest = longest_whole(self.text_length, model.config.joint_attention_dim)
        pooled = longest["prompt_embeds"].new_empty(1, model.config.pooled_projection_dim)
        return {**longest, "pooled_prompt_embeds": pooled}

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        embeds, pooled, _ = pipeline.encode_prompt(list(texts), max_sequence_length=self.text_length)
        return [{"prompt_embeds": text, "pooled_prompt_embeds": whole} for text, whole in zip(embeds, pooled)]

    def token_counts(self, pipeline: Any, texts: Sequence[str]) -> list[int]:
        # T5 counts alone: CLIP reads the first 77 tokens of every prompt, for one vector of its gist.
        return [len(pipeline.tokenizer_2(text).input_ids) for text in texts]


class FluxCfgFamily(FluxFamily):
    """FLUX.1 without an input for guidance: classifier-free guidance against the empty prompt."""

    name = "flux-cfg"
    embeds_guidance = False

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        return {**conditioning, "true_cfg_scale": self.guidance if negative_of(conditioning) else 1.0}
