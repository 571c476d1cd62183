"""Sana: linear attention on latents of 32 pixels a position, Gemma's text after an instruction, two halves."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.heads import HeadSite
from ..core.parameterisations.base import TIMESTEPS
from ..core.tensors import to_device
from .base import Conditioning, Network, matching
from .encoders import ATTENTION_MASK, ATTENTION_MASKS, negative_of
from .text_to_image import TextToImageFamily
from .texts import attended, longest_attended, of_one_length

SIDES = 32  # pixels; sides that are no multiples of it the stock pipeline refuses, whatever the autoencoder


class SanaFamily(TextToImageFamily):
    """Conditioning: ``prompt_embeds`` (B, L, D) of Gemma and ``prompt_attention_mask`` (B, L), False at no token.

    Before a prompt stands an instruction to a language model; what Gemma makes of it is dropped. The empty prompt
    stands alone, as the pipeline has it for the other half. What is masked changes nothing and is left out.
    """

    name = "sana"
    model_name = "SanaTransformer2DModel"
    pipeline_name = "SanaPipeline"
    vae_name = "AutoencoderDC"
    vae_factor = 32
    token_positions = None
    text_length = 300
    read_on_host = ATTENTION_MASKS

    @property
    def size_multiple(self) -> int:
        return max(SIDES, self.vae_factor)

    def head_site(self, model: Network) -> HeadSite:
        patch = model.config.patch_size**2
        return HeadSite("proj_out", patch, channel_major=False, tap="norm_out", tap_at="input", tap_key=1)

    def adapter_targets(self, model: Network) -> list[str]:
        # Its feed-forward layers are convolutions, which carry none: attention has them.
        return matching(model, r".*\.attn[12]\.to_(q|k|v|out\.0)|.*\.timestep_embedder\.linear_[12]")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        mask = conditioning[ATTENTION_MASK]
        return model(
            x,
            encoder_hidden_states=conditioning["prompt_embeds"],
            encoder_attention_mask=None if mask.all() else to_device(mask, x.device),
            # In full precision, as its pipeline tells it.
            timestep=TIMESTEPS * sigma.float(),
            return_dict=False,
        )[0]

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        guidance = self.guidance if negative_of(conditioning) else 1.0
        # Its negative prompt is "" unless it is told otherwise, and may not stand beside embeddings. Sizes of its own
        # choice would be cut to what is asked for.
        own = {"negative_prompt": None, "use_resolution_binning": False}
        return {**of_one_length(conditioning), **own, "guidance_scale": guidance}

    def longest_conditioning(self, model: Network) -> Conditioning:
        return longest_attended(self.text_length, model.config.caption_channels)

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        return [self._encoded(pipeline, text) for text in texts]

    def _encoded(self, pipeline: Any, text: str) -> dict[str, Tensor]:
        embeds, mask, *_ = pipeline.encode_prompt(
            text,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_length,
            complex_human_instruction=_instruction(pipeline) if text else None,
        )
        return attended(embeds[0], mask[0].bool())

    def token_counts(self, pipeline: Any, texts: Sequence[str]) -> list[int]:
        instruction = "\n".join(_instruction(pipeline))
        # Of the instruction the first token is kept, and the last.
        dropped = len(pipeline.tokenizer.encode(instruction)) - 2
        whole = [instruction + text.lower().strip() for text in texts]
        return [len(pipeline.tokenizer(text).input_ids) - dropped for text in whole]

    def encode_images(self, vae: Network, images: Tensor) -> tuple[Tensor, Tensor]:
        # It is sure of its latents.
        latents = vae.encode(images).latent * vae.config.scaling_factor
        return latents, torch.zeros_like(latents)

    def latent_statistics(self, vae: Network, latents: Tensor) -> tuple[Tensor, Tensor]:
        return latents.new_zeros(()), latents.new_tensor(1 / vae.config.scaling_factor)


def _instruction(pipeline: Any) -> list[str]:
    """The instruction that the pipeline puts before prompts unless it is told another."""
    return inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
