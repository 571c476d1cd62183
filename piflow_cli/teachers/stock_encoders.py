"""Text encoders and VAE of a stock pipeline, each loaded when it is first asked."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from .base import Network
from .long_texts import hushed, length_note


class StockEncoders:
    """Text encoders and VAE of a stock pipeline in ``folder``, each loaded onto ``device`` when first asked.

    ``family``: the :class:`~piflow_cli.teachers.text_to_image.TextToImageFamily` that knows the pipeline.
    ``offload``: text encoders stay in the CPU's memory, and each layer comes to ``device`` while it computes.
    """

    def __init__(self, family: Any, folder: Path, device: torch.device, offload: bool) -> None:
        self.family = family
        self.folder = folder
        self.device = device
        self.offload = offload
        self._pipeline: Any = None
        self._vae: Network | None = None

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], pictures: Sequence[Image] = ()) -> list[dict[str, Tensor]]:
        with hushed():
            encoded = self.family.encode_prompts(self._texts(), texts, *self._seen(pictures))
        return [{name: value.cpu() for name, value in text.items()} for text in encoded]

    def long_texts(self, texts: Sequence[str], pictures: Sequence[Image] = ()) -> dict[str, str]:
        with hushed():
            counts = self.family.token_counts(self._texts(), texts, *self._seen(pictures))
        notes = ((text, length_note(count, self.family.text_length)) for text, count in zip(texts, counts, strict=True))
        return {text: note for text, note in notes if note is not None}

    def _seen(self, pictures: Sequence[Image]) -> tuple[Sequence[Image], ...]:
        return (pictures,) if self.family.sees else ()

    def _texts(self) -> Any:
        """The pipeline with its text encoders, loaded at the first call."""
        if self._pipeline is None:
            self._pipeline = self._placed(self.family.text_pipeline(self.folder))
        return self._pipeline

    def _placed(self, pipeline: Any) -> Any:
        if not self.offload:
            return pipeline.to(self.device)
        streams = {"use_stream": True, "low_cpu_mem_usage": True} if self.device.type == "cuda" else {}
        pipeline.enable_group_offload(self.device, offload_type="leaf_level", **streams)
        return pipeline

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self._vae is None:
            self._vae = self.family.load_vae(self.folder).to(self.device)
        mean, std = self.family.encode_images(self._vae, images.to(self.device))
        return mean.cpu(), std.cpu()

    def close(self) -> None:
        self._pipeline = self._vae = None
        # Modules that are offloaded and their hooks hold each other.
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
