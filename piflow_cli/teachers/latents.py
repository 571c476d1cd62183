"""From the states of class-conditional models to pictures: nothing to do for pixels, an AutoencoderKL for latents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError
from .locate import locate

Decode = Callable[[Tensor], Tensor]
"""States (B, C, h, w) → pictures (B, 1 or 3, H, W), values around [-1, 1], on the same device."""

PICTURE_CHANNELS = (1, 3)
# A decoder's activations at 256 x 256 take about half a gigabyte a picture.
DECODED_AT_ONCE = 8
NEEDED = ("config.json", "diffusion_pytorch_model*.safetensors*", "vae/*")
NAME_ONE = "name one; distill: --set teacher.vae=PATH; sample and inspect-policy: --vae PATH"


def latent_decoder(vae: str | None, channels: int, device: torch.device) -> Decode:
    """What shows states of ``channels`` channels.

    Args:
        vae: Hub id or local folder of an AutoencoderKL, or of a pipeline that holds one; None for models of pixels.

    Raises:
        UsageError: ``vae`` is none, belongs to states of other channels, or is missing where states are no pictures.
    """
    if vae is None:
        if channels not in PICTURE_CHANNELS:
            raise UsageError(f"the model makes latents of {channels} channels, and no VAE that shows them is named", NAME_ONE)
        return lambda states: states
    # Takes a second to import, and models of pixels do without it.
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(vae_folder(vae), torch_dtype=torch.float32).eval().requires_grad_(False).to(device)
    if model.config.latent_channels != channels:
        raise UsageError(f"{vae} shows latents of {model.config.latent_channels} channels, and the model makes {channels}", NAME_ONE)
    shift = 0.0 if model.config.shift_factor is None else model.config.shift_factor

    @torch.no_grad()
    def decode(states: Tensor) -> Tensor:
        latents = states.float() / model.config.scaling_factor + shift
        # Previews are drawn under a run's autocast, and are to equal what `piflow sample` shows.
        with torch.autocast(device.type, enabled=False):
            return torch.cat([model.decode(part, return_dict=False)[0] for part in latents.split(DECODED_AT_ONCE)])

    return decode


def vae_folder(vae: str) -> Path:
    place = locate(vae, only=NEEDED)
    folder = place / "vae" if (place / "vae").is_dir() else place
    try:
        named = json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"there is no config of a VAE in {folder}", NAME_ONE) from error
    if named != "AutoencoderKL":
        raise UsageError(f"{folder} is of the class {named}, not AutoencoderKL", NAME_ONE)
    return folder
