"""Labelled pictures in one safetensors file: the form in which presets ship training sets."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from .adapters import read_safetensors
from .errors import UsageError


def load_images(path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 1, H, W) float32 in [-1, 1] and labels (N,) int64 of a safetensors file.

    It holds ``images`` (N, H, W) uint8 and ``labels`` (N,); its metadata ``levels`` is the white value.
    """
    if not path.is_file():
        raise UsageError(f"there are no images at {path}", "name a safetensors file: --set data.images=FILE")
    metadata, tensors = read_safetensors(path)
    if not {"images", "labels"} <= tensors.keys():
        raise UsageError(f"{path} lacks the tensors 'images' and 'labels'", "write both: uint8 (N, H, W) and integers (N,)")
    images = tensors["images"].float().unsqueeze(1) * (2 / float(metadata.get("levels", "255"))) - 1
    return images, tensors["labels"].long()
