"""DiT and SiT: class-conditional teachers, the embedded digits teacher among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..backbones.dit import DiT
from ..core.heads import HeadSite
from ..errors import UsageError
from .base import ClassConditionalFamily, Conditioning, matching


class DiTFamily(ClassConditionalFamily):
    """Conditioning: ``class_labels`` (B,) int64."""

    name = "dit"
    model_name = "DiT"
    trained_in_full = ("proj_out_1",)

    def load(self, folder: Path, dtype: torch.dtype = torch.float32) -> DiT:
        return DiT.from_pretrained(folder, low_cpu_mem_usage=False, torch_dtype=dtype).eval()

    def outline(self, folder: Path) -> DiT:
        with torch.device("meta"):
            return self.build(DiT.load_config(folder))

    def build(self, config: dict) -> DiT:
        return DiT.from_config(config).eval()

    def head_site(self, model: DiT) -> HeadSite:
        return HeadSite(
            projection="proj_out_2",
            patch=model.config.patch_size**2,
            channel_major=False,
            tap="emb",
            tap_at="output",
            unpatchify=True,
        )

    def adapter_targets(self, model: DiT) -> list[str]:
        return matching(model, r".*\.ff\.net\.(0\.proj|2)|emb\.timestep_embedder\.linear_[12]")

    def call(self, model: nn.Module, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        return model(x, sigma.to(x.dtype), conditioning["class_labels"])

    def class_count(self, model: DiT) -> int:
        return model.config.num_classes

    def condition(self, model: DiT, labels: Sequence[int]) -> Conditioning:
        classes = self.class_count(model)
        unknown = sorted({label for label in labels if not 0 <= label < classes})
        if unknown:
            raise UsageError(
                f"label {unknown[0]} is out of range: this model has classes 0 to {classes - 1}",
                f"choose labels with --labels 0-{classes - 1}",
            )
        return {"class_labels": torch.tensor(labels, dtype=torch.int64)}

    def unconditional(self, model: DiT, conditioning: Conditioning) -> Conditioning:
        return {"class_labels": torch.full_like(conditioning["class_labels"], model.config.num_classes)}

    def sample_shape(self, model: DiT) -> tuple[int, ...]:
        return (model.config.in_channels, model.config.sample_size, model.config.sample_size)

    def embedding_dim(self, model: DiT) -> int:
        return model.config.num_attention_heads * model.config.attention_head_dim
