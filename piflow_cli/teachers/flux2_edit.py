"""FLUX.2 that is shown a picture, which its text says how to edit."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .base import Conditioning, Network
from .encoders import REFERENCE
from .flux2 import Flux2Family, Flux2KleinFamily, grid_ids, plain_vae
from .shown import handed, named_image

# Where a token stands in its first coordinate: 0 is what is made, and further pictures would stand at 20, 30, ...
SHOWN = 10
# The smallest picture that the stock pipelines take.
SMALLEST = (64, 64)


class Flux2EditFamily(Flux2Family):
    """FLUX.2 [dev]. Conditioning: that of FLUX.2, and ``reference_latents`` (B, C, h, w), without noise."""

    name = "flux2-edit"

    def positions(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        shown = grid_ids(conditioning[REFERENCE], SHOWN).to(x.device)
        return torch.cat([super().positions(x, conditioning), shown])

    def pipeline(self, model: Network, scheduler: Any) -> Any:
        plain = plain_vae(self.latent_channels(model.config))
        kind = handed(self.pipeline_class, _HandedFlux2)
        return kind(scheduler=scheduler, vae=plain, text_encoder=None, tokenizer=None, transformer=model)

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        return named_image(super().pipeline_inputs(conditioning))


class Flux2KleinEditFamily(Flux2EditFamily, Flux2KleinFamily):
    """FLUX.2 [klein] base: both halves of its guidance are shown the picture."""

    name = "flux2-klein-edit"


class _HandedFlux2:
    """A stock pipeline that takes latents (B, C, h, w) in the place of the picture that they are encoded from."""

    def __call__(self, *, image: Tensor, **told: Any) -> Any:
        self._shown = image
        stock: Any = super()
        # It looks at the size alone: of what is made it is told the size.
        return stock.__call__(image=Image.new("RGB", SMALLEST), **told)

    def prepare_image_latents(
        self: Any, images: list[Tensor], batch_size: int, generator: Any, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        cells = self._patchify_latents(self._shown).to(device)
        ids = self._prepare_image_ids([cells[:1]]).to(device)
        return self._pack_latents(cells), ids.expand(batch_size, -1, -1)
