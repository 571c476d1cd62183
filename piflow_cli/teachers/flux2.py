"""FLUX.2: packed latents of 32 channels, one text of fixed length.

[dev] takes its guidance as an input, [klein] base is guided by two halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Conditioning, Network, matching
from .encoders import negative_of
from .long_texts import chat_lengths
from .packed import PackedFamily
from .packing import POSITIONS, SIDE, pack, unpack
from .texts import longest_whole


class Flux2VaeFamily(PackedFamily):
    """Models that share the VAE of FLUX.2, whose latents are normalised as the channels of tokens.

    Their pipelines take latents as cells (B, 4 C, H/2, W/2).
    """

    vae_name = "AutoencoderKLFlux2"

    def to_pipeline(self, x: Tensor) -> Tensor:
        return pack(x).transpose(1, 2).unflatten(2, (x.shape[-2] // SIDE, x.shape[-1] // SIDE))

    def variance_floor(self, vae: Network) -> float:
        """What is added to the variances that the VAE keeps."""
        return vae.config.batch_norm_eps

    def latent_statistics(self, vae: Network, latents: Tensor) -> tuple[Tensor, Tensor]:
        # Each of the 4 C channels of a token has its own, which the VAE keeps as those of a batch norm.
        mean, variance = vae.bn.running_mean, vae.bn.running_var + self.variance_floor(vae)
        tokens = latents.shape[-2] * latents.shape[-1] // POSITIONS
        mean, std = (unpack(value.expand(1, tokens, -1), *latents.shape[-2:]) for value in (mean, variance.sqrt()))
        return mean, std


class Flux2Family(Flux2VaeFamily):
    """FLUX.2 [dev]. Conditioning: ``prompt_embeds`` (B, L, D), padded to one length.

    They are three layers of the text encoder side by side.
    """

    name = "flux2"
    model_name = "Flux2Transformer2DModel"
    pipeline_name = "Flux2Pipeline"
    embeds_guidance = True

    def adapter_targets(self, model: Network) -> list[str]:
        single = r"single_transformer_blocks\.\d+\.attn\.to_out"
        return matching(model, rf"{single}|.*\.(ff|ff_context)\.linear_(in|out)|.*\.timestep_embedder\.linear_[12]")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        positions = self.positions(x, conditioning)
        words = _ids((1, 1, 1, conditioning["prompt_embeds"].shape[1]), x.device)
        return self.through(model, x, sigma, conditioning, guidance=self.scales(x), img_ids=positions, txt_ids=words)

    def positions(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        """Positions (tokens, 4) of the latents ``x`` (B, C, H, W)."""
        return grid_ids(x)

    def longest_conditioning(self, model: Network) -> Conditioning:
        return longest_whole(self.text_length, model.config.joint_attention_dim)

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        embeds, _ = pipeline.encode_prompt(list(texts), max_sequence_length=self.text_length)
        return [{"prompt_embeds": text} for text in embeds]

    def token_counts(self, pipeline: Any, texts: Sequence[str]) -> list[int]:
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        chats = format_input(list(texts), system_message=pipeline.system_message)
        return [
            len(pipeline.tokenizer.apply_chat_template([chat], tokenize=True, return_dict=True)["input_ids"][0])
            for chat in chats
        ]


class Flux2KleinFamily(Flux2Family):
    """FLUX.2 [klein] base: another text encoder, and classifier-free guidance against the empty prompt."""

    name = "flux2-klein"
    pipeline_name = "Flux2KleinPipeline"
    embeds_guidance = False

    def pipeline(self, model: Network, scheduler: Any) -> Any:
        # This one turns even the latents it returns back into those of its VAE: with plain statistics they stay what
        # they are.
        plain = plain_vae(self.latent_channels(model.config))
        return self.pipeline_class(scheduler=scheduler, vae=plain, text_encoder=None, tokenizer=None, transformer=model)

    def token_counts(self, pipeline: Any, texts: Sequence[str]) -> list[int]:
        return chat_lengths(pipeline.tokenizer, texts, thinking=False)

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        return {**conditioning, "guidance_scale": self.guidance if negative_of(conditioning) else 1.0}

    def from_pipeline(self, latents: Tensor, rows: int, columns: int) -> Tensor:
        return latents


def plain_vae(channels: int) -> Any:
    """A VAE of next to no weights, whose statistics leave latents of ``channels`` what they are."""
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(
        latent_channels=channels,
        batch_norm_eps=0.0,
        block_out_channels=(1, 1, 1, 1),
        norm_num_groups=1,
        layers_per_block=1,
        mid_block_add_attention=False,
    )


def grid_ids(x: Tensor, picture: int = 0) -> Tensor:
    """Position (``picture``, row, column, 0) of every token of latents (B, C, H, W), (tokens, 4)."""
    ids = _ids((1, x.shape[-2] // SIDE, x.shape[-1] // SIDE, 1), x.device)
    ids[:, 0] = picture
    return ids


def _ids(shape: tuple[int, int, int, int], device: torch.device) -> Tensor:
    """Position (picture, row, column, place in the text) of every token, (tokens, 4)."""
    return torch.cartesian_prod(*(torch.arange(length, device=device) for length in shape))
