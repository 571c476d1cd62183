"""Labelled pictures in one safetensors file: the form in which presets ship training sets."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from .weights import read_safetensors
from .errors import UsageError


def load_images(path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 1, H, W) float32 in [-1, 1] and labels (N,) int64 of a safetensors file.

    It holds ``images`` (N, H, W) uint8 and ``labels`` (N,); its metadata ``levels`` is the white value.
    """
    if not path.is_file():
        raise UsageError(f"there are no images at {path}", "name a safetensors file; distill: --set data.images=FILE")
    metadata, tensors = read_safetensors(path)
    if not {"images", "labels"} <= tensors.keys():
        raise UsageError(f"{path} lacks the tensors 'images' and 'labels'", "write both: uint8 (N, H, W) and integers (N,)")
    pixels, labels = tensors["images"], tensors["labels"]
    if pixels.ndim != 3 or labels.shape != pixels.shape[:1] or labels.is_floating_point():
        raise UsageError(
            f"{path}: images {tuple(pixels.shape)} and labels {tuple(labels.shape)} of {labels.dtype} are not (N, H, W) and N integers",
            "write both: uint8 (N, H, W) and integers (N,)",
        )
    images = pixels.float().unsqueeze(1) * (2 / _white(metadata, path)) - 1
    return images, labels.long()


def _white(metadata: dict[str, str], path: Path) -> float:
    text = metadata.get("levels", "255")
    try:
        white = float(text)
    except ValueError:
        white = 0.0
    if not 0 < white < math.inf:
        raise UsageError(f"{path}: its metadata levels is {text!r}, which is no white value", "write a positive number, 255 for uint8")
    return white
