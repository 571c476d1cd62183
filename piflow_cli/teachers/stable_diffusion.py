"""Stable Diffusion 1.5 and XL: U-Nets that predict the noise of a VP process, and end in a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..core.heads import HeadSite
from .base import Conditioning, Network, matching
from .encoders import negative_of
from .text_to_image import TextToImageFamily
from .texts import longest_whole

SIZE_NUMBERS = 6  # of a picture: its own size, where it was cut, and the size that is wanted, in pixels


class StableDiffusionFamily(TextToImageFamily):
    """Stable Diffusion 1.x. Conditioning: ``prompt_embeds`` (B, 77, D) of CLIP."""

    name = "sd15"
    model_name = "UNet2DConditionModel"
    pipeline_name = "StableDiffusionPipeline"
    component = "unet"
    casts_noise = False
    predicts = "epsilon-scaled-linear"
    # What is shown is for whoever shows it to check.
    pipeline_options = MappingProxyType({"requires_safety_checker": False})
    token_positions = None
    text_length = 77

    def head_site(self, model: Network) -> HeadSite:
        gain = self.parameterisation.largest_gain
        return HeadSite("conv_out", 1, channel_major=True, tap="time_embedding", tap_at="output", gain=gain)

    def embedding_dim(self, model: Network) -> int:
        return model.time_embedding.linear_2.out_features

    def adapter_targets(self, model: Network) -> list[str]:
        # Most of a U-Net is convolutions, which carry none: attention has them too.
        attention = r".*\.attn[12]\.to_(q|k|v|out\.0)"
        return matching(model, rf"{attention}|.*\.ff\.net\.(0\.proj|2)|.*\.time_emb_proj|time_embedding\.linear_[12]")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        scaled, timestep = self.told(x, sigma)
        return model(scaled, timestep, conditioning["prompt_embeds"], return_dict=False, **self.added(x, conditioning))[
            0
        ]

    def added(self, x: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Arguments of the network besides state, time and text."""
        return {}

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        negative = self._without_text(negative_of(conditioning))
        told = {name: value for name, value in conditioning.items() if not name.startswith("negative_")}
        guided = {f"negative_{name}": value for name, value in negative.items()}
        return {**told, **guided, "guidance_scale": self.guidance if guided else 1.0}

    def unconditional(self, model: Network, conditioning: Conditioning) -> Conditioning:
        return self._without_text(super().unconditional(model, conditioning))

    def _without_text(self, negative: Conditioning) -> Conditioning:
        return negative

    def longest_conditioning(self, model: Network) -> Conditioning:
        return longest_whole(self.text_length, model.config.cross_attention_dim)

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        embeds, _ = pipeline.encode_prompt(list(texts), pipeline._execution_device, 1, False)
        return [{"prompt_embeds": text} for text in embeds]

    def latent_statistics(self, vae: Network, latents: Tensor) -> tuple[Tensor, Tensor]:
        # Their pipelines know of no shift.
        return latents.new_zeros(()), latents.new_tensor(1 / vae.config.scaling_factor)


class StableDiffusionXLFamily(StableDiffusionFamily):
    """Stable Diffusion XL. Conditioning: ``prompt_embeds`` (B, 77, D), and ``pooled_prompt_embeds`` (B, E).

    The network is told the size of the picture too, as of one that was not cut. No text is zeros, as in its pipeline.
    """

    name = "sdxl"
    pipeline_name = "StableDiffusionXLPipeline"
    pipeline_options = MappingProxyType({})

    def added(self, x: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        # Numbers from host memory would be a copy for each evaluation.
        height, width = (x.new_full((len(x), 1), side * self.vae_factor) for side in x.shape[-2:])
        sizes = torch.cat([height, width, x.new_zeros(len(x), 2), height, width], dim=1)
        told = {"text_embeds": conditioning["pooled_prompt_embeds"], "time_ids": sizes}
        return {"added_cond_kwargs": told}

    def _without_text(self, negative: Conditioning) -> Conditioning:
        return {name: torch.zeros_like(value) for name, value in negative.items()}

    def longest_conditioning(self, model: Network) -> Conditioning:
        config = model.config
        longest = super().longest_conditioning(model)
        pooled = config.projection_class_embeddings_input_dim - SIZE_NUMBERS * config.addition_time_embed_dim
        return {**longest, "pooled_prompt_embeds": longest["prompt_embeds"].new_empty(1, pooled)}

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        embeds, _, pooled, _ = pipeline.encode_prompt(list(texts), do_classifier_free_guidance=False)
        return [{"prompt_embeds": text, "pooled_prompt_embeds": whole} for text, whole in zip(embeds, pooled)]
