"""What FLUX, Qwen-Image and others share: tokens of 2 x 2 latent positions, a last layer behind a modulated norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.heads import HeadSite
from .base import Conditioning, Network
from .encoders import reference_of
from .packing import POSITIONS, pack, unpack
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

    def through(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning, **own: Any) -> Tensor:
        """The output (B, C', H, W) of ``model`` at latents ``x`` (B, C, H, W); ``own``: what else the model takes.

        Tokens of a reference come after those of ``x``, and what the model makes of them is left out.
        """
        states = pack(x)
        whole = [states, *(pack(picture.to(x.dtype)) for picture in reference_of(conditioning).values())]
        tokens = model(
            hidden_states=torch.cat(whole, dim=1),
            timestep=sigma.to(x.dtype),
            encoder_hidden_states=conditioning["prompt_embeds"],
            return_dict=False,
            **own,
        )[0]
        return unpack(tokens[:, : states.shape[1]], *x.shape[-2:])

    def scales(self, x: Tensor) -> Tensor | None:
        """The guidance scale of each sample (B,), for networks that take one."""
        return x.new_full(x.shape[:1], self.guidance) if self.embeds_guidance else None

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        return {**conditioning, "guidance_scale": self.guidance}


def image_ids(rows: int, columns: int, like: Tensor, picture: int = 0) -> Tensor:
    """Position (``picture``, row, column) of every token, (rows * columns, 3)."""
    ids = like.new_full((rows, columns, 3), picture)
    ids[..., 1] = torch.arange(rows, device=like.device)[:, None]
    ids[..., 2] = torch.arange(columns, device=like.device)
    return ids.flatten(0, 1)


def text_ids(count: int, like: Tensor) -> Tensor:
    """Position (0, place, place) of every token of a text, (count, 3)."""
    places = torch.arange(count, device=like.device, dtype=like.dtype)
    return torch.stack([torch.zeros_like(places), places, places], dim=1)
