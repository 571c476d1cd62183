"""What text-to-image families share: diffusers classes by name, one layout of latents, conditioning from cached prompts."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..encoders import negative_of
from .base import Conditioning, TeacherFamily


class TextToImageFamily(TeacherFamily):
    """A transformer of diffusers and the stock pipeline that samples from it.

    ``token_positions``: latent positions per token where the pipeline packs latents, None where the model does.
    """

    pipeline_name: ClassVar[str]
    token_positions: ClassVar[int | None]

    @property
    def model_class(self) -> type[nn.Module]:
        """The transformer's class."""
        return _from_diffusers(self.model_name)

    def load(self, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
        return self.model_class.from_pretrained(_transformer(folder), torch_dtype=dtype).eval()

    def outline(self, folder: Path) -> nn.Module:
        with torch.device("meta"):
            return self.build(self.model_class.load_config(_transformer(folder)))

    def build(self, config: dict) -> nn.Module:
        return self.model_class.from_config(config).eval()

    def unconditional(self, model: nn.Module, conditioning: Conditioning) -> Conditioning:
        return negative_of(conditioning)

    @abstractmethod
    def latent_channels(self, model: nn.Module) -> int:
        """C of the latents (B, C, H, W)."""

    def pipeline(self, model: nn.Module, scheduler: Any, folder: Path | None = None) -> Any:
        """The stock pipeline around ``model``; text encoder and VAE come from ``folder``, and are left out without one."""
        kind = _from_diffusers(self.pipeline_name)
        if folder is None:
            parts = dict.fromkeys(kind._get_signature_keys(kind)[0])
            return kind(**{**parts, "transformer": model, "scheduler": scheduler})
        return kind.from_pretrained(folder, transformer=model, scheduler=scheduler, torch_dtype=model.dtype)


def _from_diffusers(name: str) -> Any:
    # The pipelines import transformers, which takes seconds: only what is asked for is imported.
    import diffusers

    return getattr(diffusers, name)


def _transformer(folder: Path) -> Path:
    """The transformer's folder in that of a pipeline; a transformer's folder is its own."""
    inside = folder / "transformer"
    return inside if inside.is_dir() else folder
