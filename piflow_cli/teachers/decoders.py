"""From latents of text-to-image teachers to pictures, by the VAE of their base."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..weights.locate import locate
from .base import Network
from .text_to_image import TextToImageFamily

if TYPE_CHECKING:
    from ..presets.schema import TeacherSection


def open_decoder(
    family: TextToImageFamily, section: TeacherSection, device: torch.device
) -> Callable[[Tensor], Tensor] | None:
    """A function from latents to images (B, 3, H, W), or videos, in [-1, 1]; None where the base has no VAE.

    The VAE is loaded for each call: between pictures its memory belongs to the training.
    """
    folder = locate(section.base, section.revision, ("vae/*",))
    if not (folder / "vae").is_dir():
        return None

    @torch.no_grad()
    def decode(latents: Tensor) -> Tensor:
        return decode_each(family, family.load_vae(folder).to(device), latents)

    return decode


def decode_each(family: TextToImageFamily, vae: Network, latents: Tensor) -> Tensor:
    """Images (B, 3, H, W), or videos (B, 3, F, H, W), in [-1, 1] of ``latents``.

    They are decoded one at a time: a decoder's activations are large.
    """
    # Previews are drawn under a run's autocast, and are to equal what `piflow sample` shows.
    with torch.autocast(latents.device.type, enabled=False):
        return torch.cat([family.decode_latents(vae, latent) for latent in latents.float().split(1)])
