"""FLUX.1 Kontext: FLUX.1 that is shown a picture, which its text says how to edit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Conditioning, Network
from .encoders import REFERENCE
from .flux import FluxFamily
from .packed import image_ids
from .packing import SIDE
from .shown import named_image

# Where a token stands in its first coordinate: 0 is what is made.
SHOWN = 1


class FluxKontextFamily(FluxFamily):
    """FLUX.1 Kontext [dev]. Conditioning: that of FLUX.1, and ``reference_latents`` (B, C, h, w), without noise."""

    name = "flux-kontext"
    pipeline_name = "FluxKontextPipeline"

    def positions(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        rows, columns = (side // SIDE for side in conditioning[REFERENCE].shape[-2:])
        return torch.cat([super().positions(x, conditioning), image_ids(rows, columns, x, SHOWN)])

    def pipeline(self, model: Network, scheduler: Any) -> Any:
        made = super().pipeline(model, scheduler)
        # By it the pipeline tells latents from pictures, and without a VAE it takes what is usual.
        made.latent_channels = self.latent_channels(model.config)
        return made

    def asked_size(self, height: int, width: int) -> dict[str, int]:
        # It would scale every size to the area of 1024 x 1024 pixels.
        return {**super().asked_size(height, width), "max_area": height * width}

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        return named_image(super().pipeline_inputs(conditioning))
