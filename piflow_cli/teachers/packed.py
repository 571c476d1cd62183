"""What FLUX and Qwen-Image share: tokens of 2 x 2 latent positions, and a last layer behind a modulated norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.heads import HeadSite
from .base import Network
from .packing import POSITIONS
from .text_to_image import TextToImageFamily


class PackedFamily(TextToImageFamily):
    """A transformer of diffusers with packed latents.

    It ends in ``norm_out``, which takes the timestep embedding, and ``proj_out``.
    """

    token_positions = POSITIONS
    text_length = 512
    trained_in_full = ("norm_out.linear",)
    config_not_published = ("patch_size",)

    def head_site(self, model: Network) -> HeadSite:
        return HeadSite("proj_out", POSITIONS, channel_major=True, tap="norm_out", tap_at="input", tap_key=1)

    def latent_channels(self, config: Mapping[str, Any]) -> int:
        return config["in_channels"] // POSITIONS

    def embedding_dim(self, model: Network) -> int:
        return model.config.num_attention_heads * model.config.attention_head_dim
