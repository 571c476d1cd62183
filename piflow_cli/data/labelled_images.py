"""Labelled pictures or latents in one safetensors file, the form of shipped training sets and of stored latents.

Pictures: ``images`` (N, H, W) or (N, C, H, W) uint8 with C = 1 or 3, and the metadata ``levels``, their white value,
255 if unsaid. Latents: ``latents`` (N, C, h, w), or ``mean`` and ``std`` of a VAE's posterior of that shape, from which
a batch is drawn; floats of any width, times the metadata ``scale``, 1 if unsaid: 0.18215 where they are as the VAE of
Stable Diffusion gives them. Both: ``labels`` (N,) of whole numbers.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..core.tensors import all_finite
from ..errors import RunError, UsageError
from .tensor_rows import Rows, tensors_in

IMAGES, LABELS, LATENTS, MEAN, STD = "images", "labels", "latents", "mean", "std"
FORMS = (
    "write images, uint8 (N, H, W) or (N, C, H, W), or latents, or mean and std, (N, C, h, w); and labels, N whole"
    " numbers"
)
# Rows that are read together: a few megabytes.
AT_ONCE = 1024


def load_images(path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) float32 in [-1, 1] and labels (N,) int64 of a safetensors file of pictures."""
    if not path.is_file():
        raise UsageError(f"there are no images at {path}", "name a safetensors file; distill: --set data.images=FILE")
    _, tensors = tensors_in(path)
    if not {IMAGES, LABELS} <= tensors.keys():
        raise UsageError(
            f"{path} lacks the tensors '{IMAGES}' and '{LABELS}'", "write both: uint8 (N, H, W) and integers (N,)"
        )
    _refuse_other_pixels(path, tensors[IMAGES], tensors[LABELS])
    pixels, labels = tensors[IMAGES].whole(), _whole_numbers(path, tensors[LABELS])
    pixels = pixels if pixels.ndim == 4 else pixels.unsqueeze(1)
    return pixels.float() * (2 / white_of(path)) - 1, labels


def labels_of(path: Path) -> Tensor:
    """Labels (N,) int64 of a safetensors file of pictures or latents; the rest is not read."""
    _, tensors = tensors_in(path)
    if LABELS not in tensors or not (IMAGES in tensors or holds_latents(path)):
        raise UsageError(
            f"{path} holds {', '.join(sorted(tensors)) or 'nothing'}, which are no labelled pictures or latents", FORMS
        )
    if IMAGES in tensors and not holds_latents(path):
        _refuse_other_pixels(path, tensors[IMAGES], tensors[LABELS])
    return _whole_numbers(path, tensors[LABELS])


def white_of(path: Path) -> float:
    """The white value of the pictures in a safetensors file."""
    return _positive(tensors_in(path)[0], "levels", "white value", "255", path)


def holds_latents(path: Path) -> bool:
    """Whether a safetensors file holds latents, in place of pictures."""
    _, tensors = tensors_in(path)
    return LATENTS in tensors or {MEAN, STD} <= tensors.keys()


@dataclass(frozen=True)
class StoredLatents:
    """Latents in a safetensors file, which may be larger than the memory: rows are read on demand.

    ``labels`` (N,) int64. ``scale``: the factor of the stored values. ``stored``: latents, or mean and standard
    deviation.
    """

    path: Path
    labels: Tensor
    scale: float
    stored: tuple[Rows, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w) of one."""
        return self.stored[0].shape[1:]

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation (B, C, h, w) float32 of ``rows`` (B,); the latter is None for drawn latents."""
        mean, *std = [self.scale * values.read(rows).float() for values in self.stored]
        return mean, std[0] if std else None

    def fingerprint(self) -> str:
        """SHA-256 of everything that shapes the latents; raises RunError naming the first row that is not finite."""
        digest = hashlib.sha256(repr((self.shape, self.scale)).encode() + self.labels.numpy().tobytes())
        for start in range(0, len(self.labels), AT_ONCE):
            rows = torch.arange(start, min(start + AT_ONCE, len(self.labels)))
            for value in self.read(rows):
                if value is None:
                    continue
                if not all_finite(value):
                    row = start + int(value.flatten(1).isfinite().all(dim=1).logical_not().nonzero()[0])
                    raise RunError(f"{self.path}: the latents in row {row} are not finite", "make them anew without it")
                digest.update(value.numpy().tobytes())
        return digest.hexdigest()


def open_latents(path: Path) -> StoredLatents:
    """The latents in a safetensors file; raises UsageError where shapes or dtypes are others."""
    labels, (metadata, tensors) = labels_of(path), tensors_in(path)
    names = [LATENTS] if LATENTS in tensors else [MEAN, STD]
    stored = tuple(tensors[name] for name in names)
    alike = (
        len({values.shape for values in stored}) == 1 and len(stored[0].shape) == 4 and len(stored[0]) == len(labels)
    )
    if not alike or not all(values.dtype is not None and values.dtype.is_floating_point for values in stored):
        found = ", ".join(f"{name} {values.shape} of {values.dtype}" for name, values in zip(names, stored))
        raise UsageError(f"{path}: {found} are no latents of {len(labels)} labels", FORMS)
    return StoredLatents(path, labels, _positive(metadata, "scale", "scale", "1", path), stored)


def _refuse_other_pixels(path: Path, pixels: Rows, labels: Rows) -> None:
    grey_or_colour = len(pixels.shape) == 3 or (len(pixels.shape) == 4 and pixels.shape[1] in (1, 3))
    if not grey_or_colour or pixels.dtype != torch.uint8 or labels.shape != pixels.shape[:1] or _fractional(labels):
        raise UsageError(
            f"{path}: images {pixels.shape} of {pixels.dtype} and labels {labels.shape} of {labels.dtype} "
            "are not (N, H, W) or (N, C, H, W) in uint8 and N integers",
            FORMS,
        )


def _whole_numbers(path: Path, labels: Rows) -> Tensor:
    if len(labels.shape) != 1 or not len(labels) or _fractional(labels) or (found := labels.whole().long()).min() < 0:
        raise UsageError(f"{path}: labels {labels.shape} of {labels.dtype} are not N whole numbers from 0 on", FORMS)
    return found


def _fractional(labels: Rows) -> bool:
    return labels.dtype is None or labels.dtype.is_floating_point


def _positive(metadata: dict[str, str], name: str, what: str, unsaid: str, path: Path) -> float:
    text = metadata.get(name, unsaid)
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        hint = f"write a positive number, {unsaid} where nothing else is meant"
        raise UsageError(f"{path}: its metadata {name} is {text!r}, which is no {what}", hint)
    return value
