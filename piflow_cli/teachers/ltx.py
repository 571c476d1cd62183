"""LTX-Video: each latent position is a token, whose place the network is told in pixels and seconds; T5's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.heads import HeadSite
from ..core.parameterisations.base import TIMESTEPS
from ..core.tensors import to_device
from .base import Conditioning, Network, matching
from .encoders import ATTENTION_MASK, ATTENTION_MASKS, negative_of
from .text_to_video import TextToVideoFamily
from .texts import attended, longest_attended, of_one_length

SIDES = 32  # pixels; sides that are no multiples of it the stock pipeline refuses, whatever the autoencoder
DECODING_SEED = 0
FRAMES_A_SECOND = 25


class LTXFamily(TextToVideoFamily):
    """Conditioning: ``prompt_embeds`` (B, L, D) of T5 and ``prompt_attention_mask`` (B, L), False at no token.

    T5 reads a text with its padding, so that both are encoded; what is masked then changes nothing and is left out.
    The network counts in pixels and seconds, by the factors of the published autoencoder and the frame rate.
    """

    name = "ltx"
    model_name = "LTXVideoTransformer3DModel"
    pipeline_name = "LTXPipeline"
    pipeline_factors = ("vae_spatial_compression_ratio", "vae_temporal_compression_ratio")
    vae_name = "AutoencoderKLLTXVideo"
    vae_factor = SIDES
    token_positions = 1
    text_length = 128
    frame_rate = FRAMES_A_SECOND
    read_on_host = ATTENTION_MASKS

    @property
    def size_multiple(self) -> int:
        return max(SIDES, self.vae_factor)

    def head_site(self, model: Network) -> HeadSite:
        # The norm before the projection is told of time by a table, so that nothing taps it there.
        return HeadSite("proj_out", 1, channel_major=True, tap="time_embed", tap_at="output", tap_key=1)

    def adapter_targets(self, model: Network) -> list[str]:
        return matching(model, r".*\.ff\.net\.(0\.proj|2)|.*\.timestep_embedder\.linear_[12]")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        mask = conditioning[ATTENTION_MASK]
        frames, rows, columns = x.shape[2:]
        tokens = model(
            self.to_pipeline(x),
            encoder_hidden_states=conditioning["prompt_embeds"],
            # In full precision, as its pipeline tells it.
            timestep=TIMESTEPS * sigma.float(),
            encoder_attention_mask=None if mask.all() else to_device(mask, x.device),
            num_frames=frames,
            height=rows,
            width=columns,
            rope_interpolation_scale=(self.frame_step / FRAMES_A_SECOND, SIDES, SIDES),
            return_dict=False,
        )[0]
        return self.from_pipeline(tokens, rows, columns)

    def to_pipeline(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)

    def from_pipeline(self, latents: Tensor, rows: int, columns: int) -> Tensor:
        return latents.transpose(1, 2).unflatten(2, (-1, rows, columns))

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        scale = self.guidance if negative_of(conditioning) else 1.0
        return {**of_one_length(conditioning), "guidance_scale": scale}

    def longest_conditioning(self, model: Network) -> Conditioning:
        return longest_attended(self.text_length, model.config.caption_channels)

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        return [self._encoded(pipeline, text) for text in texts]

    def _encoded(self, pipeline: Any, text: str) -> dict[str, Tensor]:
        embeds, mask, *_ = pipeline.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=self.text_length
        )
        return attended(embeds[0], mask[0].bool())

    def latent_statistics(self, vae: Network, latents: Tensor) -> tuple[Tensor, Tensor]:
        # They are tensors of the autoencoder's, and no fields of its config.
        mean, std = (
            values.to(latents).reshape(-1, 1, 1, 1)
            for values in (vae.latents_mean, vae.latents_std / vae.config.scaling_factor)
        )
        return mean, std

    def decode_latents(self, vae: Network, latents: Tensor) -> Tensor:
        """Videos (B, 3, frames, H, W) around [-1, 1] of normalised ``latents`` (B, C, F, h, w).

        Autoencoders since 0.9.1 are told how noisy latents are: not at all, which their pipeline says unless it is
        told otherwise.
        """
        mean, std = self.latent_statistics(vae, latents)
        clean = latents.new_zeros(len(latents)) if vae.config.timestep_conditioning else None
        # Some add noise of their own, and a video is to come again.
        with torch.random.fork_rng([latents.device] if latents.is_cuda else []):
            torch.manual_seed(DECODING_SEED)
            return vae.decode(latents * std + mean, clean).sample
