"""Small tensor helpers that the rooms of the core share."""

from __future__ import annotations

import torch
from torch import Tensor


def working(value: Tensor) -> Tensor:
    """``value`` in the precision of policy arithmetic: float64 stays, and all else becomes float32."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """A (B,) tensor as (B, 1, ...), with the axes, the dtype and the device of ``like`` (B, ...)."""
    return value.to(device=like.device, dtype=like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def all_finite(value: Tensor) -> bool:
    """Whether ``value`` holds neither NaN nor infinity; integers never do."""
    if not value.is_floating_point():
        return True
    if value.itemsize == 1:
        value = value.float()
    # A sum is quicker than a test of every number, and no NaN or infinity gets lost in it; it may only overflow by
    # itself.
    return bool(value.sum(dtype=torch.float32).isfinite()) or bool(value.isfinite().all())
