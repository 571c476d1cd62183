"""Rows of a tensor in a safetensors file that may be larger than the memory: mapped, and copied on demand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..weights.stored import opened_tensors

# The dtypes of safetensors, by its own names.
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """A tensor of shape (N, …) in the file ``path``, ``offset`` bytes from its beginning.

    ``dtype``: None for a tensor whose rows cannot be read.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    offset: int

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def read(self, rows: Tensor) -> Tensor:
        """The ``rows`` (B,) int64 as (B, …), copied."""
        assert self.dtype is not None, "what has no rows is refused before"
        width = prod(self.shape[1:]) * self.dtype.itemsize
        # torch would map the file for writing too, which the system allows as far as its memory goes.
        mapped = np.memmap(self.path, np.uint8, "r", self.offset, (len(self), width))
        return torch.from_numpy(mapped[rows.numpy()]).view(self.dtype).reshape(len(rows), *self.shape[1:])

    def whole(self) -> Tensor:
        return self.read(torch.arange(len(self)))


def tensors_in(path: Path) -> tuple[dict[str, str], dict[str, Rows]]:
    """The metadata and the tensors of a safetensors file, none of them read; raises RunError where it is damaged."""
    with opened_tensors(path, "np"):
        # It has looked whether header and length are right.
        pass
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    begin = 8 + length
    return metadata, {
        name: Rows(path, tuple(entry["shape"]), DTYPES.get(entry["dtype"]), begin + entry["data_offsets"][0])
        for name, entry in header.items()
    }
