"""Stable Diffusion 3 and 3.5: one text of two CLIPs and T5, a network that unpatchifies by itself, two halves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..core.heads import HeadSite
from ..core.parameterisations.base import TIMESTEPS
from .base import Conditioning, Network, matching
from .encoders import negative_of
from .text_to_image import TextToImageFamily
from .texts import longest_whole

CLIP_LENGTH = 77  # tokens of both CLIPs, side by side before those of T5


class StableDiffusion3Family(TextToImageFamily):
    """Conditioning: ``prompt_embeds`` (B, 77 + L, D) of both CLIPs and then T5, padded, all of which the network reads.

    And ``pooled_prompt_embeds`` (B, E) of both CLIPs.
    """

    name = "sd3"
    model_name = "SD3Transformer2DModel"
    pipeline_name = "StableDiffusion3Pipeline"
    token_positions = None
    text_length = 256
    trained_in_full = ("norm_out.linear",)

    def head_site(self, model: Network) -> HeadSite:
        patch = model.config.patch_size**2
        return HeadSite(
            "proj_out", patch, channel_major=False, tap="norm_out", tap_at="input", tap_key=1, unpatchify=True
        )

    def adapter_targets(self, model: Network) -> list[str]:
        return matching(model, r".*\.(ff|ff_context)\.net\.(0\.proj|2)|.*\.timestep_embedder\.linear_[12]")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        return model(
            hidden_states=x,
            # In full precision, as its pipeline tells it: bfloat16 has no number between 880 and 884.
            timestep=TIMESTEPS * sigma.float(),
            encoder_hidden_states=conditioning["prompt_embeds"],
            pooled_projections=conditioning["pooled_prompt_embeds"],
            return_dict=False,
        )[0]

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        return {**conditioning, "guidance_scale": self.guidance if negative_of(conditioning) else 1.0}

    def longest_conditioning(self, model: Network) -> Conditioning:
        longest = longest_whole(CLIP_LENGTH + self.text_length, model.config.joint_attention_dim)
        pooled = longest["prompt_embeds"].new_empty(1, model.config.pooled_projection_dim)
        return {**longest, "pooled_prompt_embeds": pooled}

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        options = {"do_classifier_free_guidance": False, "max_sequence_length": self.text_length}
        embeds, _, pooled, _ = pipeline.encode_prompt(list(texts), None, None, **options)
        return [{"prompt_embeds": text, "pooled_prompt_embeds": whole} for text, whole in zip(embeds, pooled)]

    def token_counts(self, pipeline: Any, texts: Sequence[str]) -> list[int]:
        # T5 counts alone, as in FLUX.1: each CLIP reads the first 77 tokens.
        return [len(pipeline.tokenizer_3(text).input_ids) for text in texts]
