"""Small tensor helpers that the rooms of the core share."""

from __future__ import annotations

import torch
from torch import Tensor


def working(value: Tensor) -> Tensor:
    """``value`` in the precision of policy arithmetic: float32, or float64 where it comes as float64."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """Shape a (B,) tensor so that it broadcasts against ``like`` (B, ...), in the dtype and on the device of ``like``."""
    return value.to(device=like.device, dtype=like.dtype).reshape(-1, *[1] * (like.ndim - 1))
