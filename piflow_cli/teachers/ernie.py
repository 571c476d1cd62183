"""ERNIE-Image: cells of FLUX.2's latents, tokens before the batch, masked text of any length, two halves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.heads import HeadSite
from ..core.parameterisations.base import TIMESTEPS
from ..core.tensors import to_device
from .base import Conditioning, Network, matching
from .encoders import negative_of
from .flux2 import Flux2VaeFamily
from .packing import POSITIONS, unpack
from .texts import MASK, longest_masked, masked, texts_of

FINAL_NORM = "final_norm"


class ErnieImageFamily(Flux2VaeFamily):
    """Conditioning: ``prompt_embeds`` (B, L, D) and ``prompt_embeds_mask`` (B, L), zero where there is no token.

    The pipeline reads texts of any length, and a language model of its own may write longer ones of them first. Here
    texts are read as they are, up to ``text_length``.
    """

    name = "ernie-image"
    model_name = "ErnieImageTransformer2DModel"
    pipeline_name = "ErnieImagePipeline"
    left_out = ("pe", "pe_tokenizer")
    casts_noise = False
    text_length = 1024
    trained_in_full = (f"{FINAL_NORM}.linear",)
    config_not_published = ()

    def head_site(self, model: Network) -> HeadSite:
        return HeadSite(
            "final_linear",
            POSITIONS,
            channel_major=True,
            tap=FINAL_NORM,
            tap_at="input",
            tap_key=1,
            unpatchify=True,
            sequence_first=True,
        )

    def embedding_dim(self, model: Network) -> int:
        return model.config.hidden_size

    def adapter_targets(self, model: Network) -> list[str]:
        return matching(model, r"layers\.\d+\.mlp\.(gate_proj|up_proj|linear_fc2)|time_embedding\.linear_[12]")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        cells = model(
            hidden_states=self.to_pipeline(x),
            # In full precision: bfloat16 has no number between 880 and 884.
            timestep=TIMESTEPS * sigma.float(),
            text_bth=conditioning["prompt_embeds"],
            text_lens=conditioning[MASK].sum(dim=1),
            return_dict=False,
        )[0]
        return self.from_pipeline(cells, *x.shape[-2:])

    def from_pipeline(self, latents: Tensor, rows: int, columns: int) -> Tensor:
        return unpack(latents.flatten(2).transpose(1, 2), rows, columns)

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        negative = negative_of(conditioning)
        halves = {"negative_prompt_embeds": texts_of(negative)} if negative else {}
        return {
            "prompt_embeds": texts_of(conditioning),
            **halves,
            "guidance_scale": self.guidance if negative else 1.0,
        }

    def variance_floor(self, vae: Network) -> float:
        # The pipeline's own, until the config of the VAE has it too.
        return 1e-5

    def longest_conditioning(self, model: Network) -> Conditioning:
        # Its network reads no value of a mask.
        return to_device(longest_masked(self.text_length, model.config.text_in_dim), torch.device("meta"))

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        # Tokens see those before them alone: to leave the end out is never to have read it.
        found = pipeline.encode_prompt(list(texts), pipeline._execution_device)
        return [masked(embeds[: self.text_length]) for embeds in found]
