"""DINOv2 as an extractor, for FD-DINOv2 (Stein et al., arXiv 2306.04675)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.tensors import to_device
from ...system.files import identity_of_place
from .base import DINO
from .pictures import EightBitExtractor
from .pretrained import load_network, model_folder

SIDE = 224
# Statistics of DINOv2's training pictures, per channel, as shares of 255.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Dino(EightBitExtractor):
    """The class token after the last norm, of 8-bit pictures resized to 224 x 224 whatever their shape.

    ``source`` is a folder that transformers can read, or a Hub id; errors are those of ``model_folder``.
    """

    resize = f"{SIDE} (bicubic, antialiased, float)"

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import Dinov2Model

        folder = model_folder(source, "dinov2", f"--extractor {DINO}PATH")
        self.name, self.device = f"{DINO}{source}", device
        self.identity = identity_of_place(folder)
        self.network = load_network(Dinov2Model, folder, device)
        self.mean, self.std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))

    def features_of_levels(self, levels: Tensor) -> Tensor:
        pictures = to_device(levels, self.device).float() / 255
        pictures = F.interpolate(pictures, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        return self.network(pixel_values=(pictures - self.mean) / self.std).pooler_output

    def logits(self, features: Tensor) -> Tensor | None:
        return None
