"""Wan: videos, whose latents the network takes as they are; UMT5's text of fixed length, two halves.

Wan 2.2 TI2V, which can be given its first frame, is told a time for each token, and has another autoencoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from ..core.heads import HeadSite
from ..core.parameterisations.base import TIMESTEPS
from ..errors import UsageError
from .base import Conditioning, Network, matching
from .encoders import negative_of
from .sizes import read_object
from .text_to_video import TextToVideoFamily
from .texts import longest_whole

SIDES = 16  # pixels; sides that are no multiples of it the stock pipeline refuses, whatever the autoencoder
# What an index calls it that the network is told a time for each token.
TOKEN_TIMES = "expand_timesteps"
TIME_EMBEDDER = r"condition_embedder\.time_embedder\.linear_[12]"


class WanFamily(TextToVideoFamily):
    """Conditioning: ``prompt_embeds`` (B, L, D) of UMT5, zeros where a text has ended; the network has no mask.

    ``other``: a family of the same class, whose networks are told time in another way.
    """

    name = "wan"
    other: ClassVar[str] = "wan-ti2v"
    model_name = "WanTransformer3DModel"
    pipeline_name = "WanPipeline"
    vae_name = "AutoencoderKLWan"
    token_positions = None
    text_length = 512
    frame_rate = 16
    asks_for_dtype = ("time_embedder",)

    @property
    def size_multiple(self) -> int:
        return max(SIDES, super().size_multiple)

    def _config(self, folder: Path) -> dict:
        config = super()._config(folder)
        if config["in_channels"] != config["out_channels"] or config.get("image_dim") is not None:
            raise UsageError(
                f"the {self.model_name} in {folder} is told a picture, and the family {self.name} is of texts alone",
                "choose a base that makes videos of texts",
            )
        self._check_index(folder, read_object(folder / "model_index.json"))
        return config

    def _check_index(self, folder: Path, index: Mapping[str, Any]) -> None:
        """Raise UsageError where ``index``, of the pipeline in ``folder``, is of another model; a network has none."""
        second = index.get("transformer_2")
        if second is not None and any(second):
            raise UsageError(
                f"{folder} holds two networks, of which each knows a part of the noise levels: a student has one",
                "choose the preset of that model, whose teacher.family is wan-a14b, or a base of one network",
            )
        if index and bool(index.get(TOKEN_TIMES)) != (TOKEN_TIMES in self.pipeline_options):
            told = "a time for each token" if index.get(TOKEN_TIMES) else "one time for all tokens"
            raise UsageError(
                f"the {self.model_name} in {folder} is told {told}, unlike those of the family {self.name}",
                f"choose a preset of that model, whose teacher.family is {self.other}, or another base",
            )

    def head_site(self, model: Network) -> HeadSite:
        # The norm before the projection is told of time by a table, so that nothing taps it there.
        patch = prod(model.config.patch_size)
        return HeadSite("proj_out", patch, channel_major=False, tap="condition_embedder", tap_at="output", tap_key=0)

    def adapter_targets(self, model: Network) -> list[str]:
        return matching(model, rf".*\.ffn\.net\.(0\.proj|2)|{TIME_EMBEDDER}")

    def kept_whole(self, model: Network) -> set[str]:
        # Its input is cast to the dtype of their weights, which is no number format where they are quantised.
        return {*super().kept_whole(model), *matching(model, TIME_EMBEDDER)}

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        return model(
            x,
            timestep=self._timestep(x, sigma),
            encoder_hidden_states=conditioning["prompt_embeds"],
            return_dict=False,
        )[0]

    def _timestep(self, x: Tensor, sigma: Tensor) -> Tensor:
        # In full precision, as its pipeline tells it.
        return TIMESTEPS * sigma.float()

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        return {**conditioning, "guidance_scale": self.guidance if negative_of(conditioning) else 1.0}

    def longest_conditioning(self, model: Network) -> Conditioning:
        return longest_whole(self.text_length, model.config.text_dim)

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        return [{"prompt_embeds": self._encoded(pipeline, text)} for text in texts]

    def _encoded(self, pipeline: Any, text: str) -> Tensor:
        embeds, _ = pipeline.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=self.text_length
        )
        return embeds[0]

    def latent_statistics(self, vae: Network, latents: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            latents.new_tensor(values).reshape(-1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return mean, std


class WanTI2VFamily(WanFamily):
    """Wan 2.2 TI2V as a teacher of texts alone: all tokens have one time, and yet each is told it.

    Given a first frame, which is not done here, its pipeline tells the tokens of that frame that they are clean.
    """

    name = "wan-ti2v"
    other = "wan"
    pipeline_options = MappingProxyType({TOKEN_TIMES: True})
    vae_factor = 16
    frame_rate = 24

    def _timestep(self, x: Tensor, sigma: Tensor) -> Tensor:
        frames, rows, columns = x.shape[2:]
        # Its pipeline takes every second position each way, whatever the network.
        return super()._timestep(x, sigma)[:, None].expand(-1, frames * (rows // 2) * (columns // 2))
