"""DINOv2 as an extractor, for FD-DINOv2 (Stein et al., arXiv 2306.04675)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...system.files import identity_of_place
from .base import Opening
from .pictures import EightBitExtractor, resized, resized_to
from .pretrained import load_network, model_folder

NAME = "dinov2:"
SIDE = 224
# Statistics of DINOv2's training pictures, per channel, as shares of 255.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Dino(EightBitExtractor):
    """The class token after the last norm, of 8-bit pictures resized to 224 x 224 whatever their shape.

    ``source`` is a folder that transformers can read, or a Hub id; errors are those of ``model_folder``.
    """

    resize = resized_to(SIDE)

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import Dinov2Model

        folder = model_folder(source, "dinov2", f"--extractor {NAME}PATH")
        self.name, self.device = f"{NAME}{source}", device
        self.identity = identity_of_place(folder)
        self.network = load_network(Dinov2Model, folder, device)
        self.mean, self.std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))

    def features_of_levels(self, levels: Tensor) -> Tensor:
        pictures = resized(levels, SIDE, self.device)
        return self.network(pixel_values=(pictures - self.mean) / self.std).pooler_output

    def logits(self, features: Tensor) -> Tensor | None:
        return None


def open_dino(opening: Opening) -> Dino:
    return Dino(opening.name.removeprefix(NAME), opening.device)
