"""Training data in memory, in an order that depends on the seed and the iteration alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..adapters import read_safetensors
from ..errors import UsageError


@dataclass(frozen=True)
class LabelledImages:
    """Images (N, C, H, W) float32 in [-1, 1] and their class labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]


def load_images(path: Path) -> LabelledImages:
    """Read a safetensors file of ``images`` (N, H, W) uint8 and ``labels`` (N,); metadata ``levels`` is the white value."""
    if not path.is_file():
        raise UsageError(f"there are no images at {path}", "name a safetensors file: --set data.images=FILE")
    metadata, tensors = read_safetensors(path)
    if not {"images", "labels"} <= tensors.keys():
        raise UsageError(f"{path} lacks the tensors 'images' and 'labels'", "write both: uint8 (N, H, W) and integers (N,)")
    images = tensors["images"].float().unsqueeze(1) * (2 / float(metadata.get("levels", "255"))) - 1
    return LabelledImages(images, tensors["labels"].long())


def batch_indices(length: int, seed: int, start: int, count: int) -> Tensor:
    """Places (count,) int64 of samples ``start`` to ``start + count`` of an endless shuffled order over ``length`` items.

    Every pass is its own permutation, drawn from the seed and the number of the pass: nothing has to be remembered.
    """
    positions = torch.arange(start, start + count)
    passes = positions // length
    order = {int(number): _permutation(length, seed, int(number)) for number in passes.unique()}
    return torch.stack([order[int(number)][position % length] for number, position in zip(passes, positions)])


def _permutation(length: int, seed: int, number: int) -> Tensor:
    return torch.randperm(length, generator=torch.Generator().manual_seed(mixed_seed(seed, number)))


def mixed_seed(*parts: int) -> int:
    """One well-mixed 63-bit seed of several numbers."""
    import numpy as np

    return int(np.random.SeedSequence(parts).generate_state(1, dtype=np.uint64)[0] >> 1)
