"""DINOv2 as an extractor, for FD-DINOv2 (Stein et al., arXiv 2306.04675)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UsageError
from ...teachers.locate import locate
from .base import DINO, identity_of, in_batches
from .pictures import quantised

SIDE = 224
BATCH = 32
FILES = ("config.json", "model*.safetensors*")
# Of the pictures that DINOv2 was trained on, per channel, as shares of 255.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Dino:
    """The class token after the last norm, of 8-bit pictures resized to 224 x 224 whatever their shape.

    Args:
        source: a folder that transformers can read, or a Hub id.

    Raises:
        UsageError: it is another kind of model.
    """

    resize = f"{SIDE} (bicubic, antialiased, float)"

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import AutoConfig, AutoModel

        folder = locate(source, only=FILES)
        kind = AutoConfig.from_pretrained(folder).model_type
        if not kind.startswith("dinov2"):
            raise UsageError(f"{source} holds a model of the type {kind}, not dinov2", f"name a DINOv2: --extractor {DINO}PATH")
        self.name, self.device = f"{DINO}{source}", device
        self.identity = identity_of(folder.glob("*.safetensors"))
        self.network = AutoModel.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False).to(device)

    def features(self, images: Tensor) -> Tensor:
        return in_batches(quantised(images), BATCH, self._features)

    def _features(self, levels: Tensor) -> Tensor:
        pictures = levels.to(self.device).float() / 255
        pictures = F.interpolate(pictures, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (MEAN, STD))
        return self.network(pixel_values=(pictures - mean) / std).pooler_output

    def logits(self, features: Tensor) -> Tensor | None:
        return None
