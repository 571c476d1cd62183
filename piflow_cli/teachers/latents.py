"""From pictures to states of class-conditional models, and back: pixels as they are, latents by an AutoencoderKL."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError
from ..system.files import identity_of_place
from ..weights.locate import CONFIGS, locate
from .base import Network
from .encoders import EncoderFactory
from .loading import load_model

Decode = Callable[[Tensor], Tensor]
"""States (B, C, h, w) → pictures (B, 1 or 3, H, W), values around [-1, 1], on the same device."""

PICTURE_CHANNELS = (1, 3)
# A decoder's activations at 256 x 256 take about half a gigabyte a picture.
DECODED_AT_ONCE = 8
NEEDED = ("config.json", "diffusion_pytorch_model*.safetensors*", "vae/*")
OPTION = "distill: --set teacher.vae=PATH; sample and inspect-policy: --vae PATH"
NAME_ONE = f"name one; {OPTION}"


def latent_decoder(vae: str | None, channels: int, device: torch.device) -> Decode:
    """A function that shows states of ``channels`` channels as pictures.

    Args:
        vae: Hub id or local folder of an AutoencoderKL, or of a pipeline that holds one; None for models of pixels.

    Raises:
        UsageError: ``vae`` is none, belongs to states of other channels, or is missing where states are no pictures.
    """
    if vae is None:
        if channels not in PICTURE_CHANNELS:
            raise UsageError(
                f"the model makes latents of {channels} channels, and no VAE that shows them is named", NAME_ONE
            )
        return lambda states: states
    model = _load(vae, channels, device)
    shift, scale = _normalisation(model)

    @torch.no_grad()
    def decode(states: Tensor) -> Tensor:
        latents = states.float() / scale + shift
        # Previews are drawn under a run's autocast, and are to equal what `piflow sample` shows.
        with torch.autocast(device.type, enabled=False):
            return torch.cat([model.decode(part, return_dict=False)[0] for part in latents.split(DECODED_AT_ONCE)])

    return decode


class VaeEncoder:
    """The AutoencoderKL ``vae`` for latents of ``channels`` channels, loaded onto ``device`` at first use."""

    def __init__(self, vae: str, channels: int, device: torch.device) -> None:
        self.vae, self.channels, self.device = vae, channels, device
        self._model: Network = None

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, h, w) of the states of ``images`` (B, 3, H, W) in [-1, 1]."""
        if self._model is None:
            self._model = _load(self.vae, self.channels, self.device)
        shift, scale = _normalisation(self._model)
        posterior = self._model.encode(images.to(self.device)).latent_dist
        return ((posterior.mean - shift) * scale).cpu(), (posterior.std * scale).cpu()

    def close(self) -> None:
        self._model = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def vae_encoders(vae: str | None, channels: int) -> EncoderFactory:
    """The encoder of a teacher's latents, not loaded yet; raises UsageError where ``vae`` does not fit."""
    if vae is None:
        raise UsageError(
            f"the model makes latents of {channels} channels, and no VAE that encodes pictures is named", NAME_ONE
        )
    config = json.loads((vae_folder(vae, CONFIGS) / "config.json").read_text(encoding="utf-8"))
    # An AutoencoderKL halves the sides between its blocks.
    halvings = len(config["block_out_channels"]) - 1 if "block_out_channels" in config else 0
    place = Path(vae)
    return EncoderFactory(
        identity={
            "vae": str(place.resolve()) if place.exists() else vae,
            "pictures": "centre crop of ADM",
            "latents": "mean and std of the posterior, float32",
        },
        latent_channels=channels,
        downsampling=2**halvings,
        size_multiple=2**halvings,
        open=lambda device, offload: VaeEncoder(vae, channels, device),
    )


def _load(vae: str, channels: int, device: torch.device) -> Network:
    # Takes a second to import, and models of pixels do without it.
    from diffusers import AutoencoderKL

    model = load_model(AutoencoderKL, vae_folder(vae), torch.float32).requires_grad_(False).to(device)
    if model.config.latent_channels != channels:
        raise UsageError(
            f"{vae} shows latents of {model.config.latent_channels} channels, and the model makes {channels}", NAME_ONE
        )
    return model


def _normalisation(model: Network) -> tuple[float, float]:
    """The shift subtracted from states, and the factor that multiplied them."""
    return 0.0 if model.config.shift_factor is None else model.config.shift_factor, model.config.scaling_factor


def vae_identity(vae: str | None) -> str:
    """The identity of the files of ``vae``, for caches of what it shows; "" for models of pixels."""
    return identity_of_place(vae_folder(vae)) if vae else ""


def vae_folder(vae: str, only: Sequence[str] = NEEDED) -> Path:
    """The folder of the AutoencoderKL ``vae``; of one on the Hub the files ``only`` are fetched."""
    place = locate(vae, only=only, option=OPTION)
    folder = place / "vae" if (place / "vae").is_dir() else place
    try:
        named = json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"there is no config of a VAE in {folder}", NAME_ONE) from error
    if named != "AutoencoderKL":
        raise UsageError(f"{folder} is of the class {named}, not AutoencoderKL", NAME_ONE)
    return folder
