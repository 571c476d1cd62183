"""Tokens of models whose pipelines pack latents: 2 x 2 positions a token, channels ordered (c, row, column)."""

from __future__ import annotations

import torch
from torch import Tensor

SIDE = 2
POSITIONS = SIDE * SIDE


def pack(x: Tensor) -> Tensor:
    """Latents (B, C, H, W) with even sides → tokens (B, H/2 * W/2, 4 C), rows of the image in order."""
    cells = x.unflatten(3, (-1, SIDE)).unflatten(2, (-1, SIDE))
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens (B, H/2 * W/2, 4 C) → (B, C, H, W); the inverse of :func:`pack`.

    A width of 4 C + r ends in r channels that belong to the whole token; they become r channels (B, r, H, W), last.
    """
    whole = tokens.shape[-1] % POSITIONS
    own = tokens[..., : tokens.shape[-1] - whole].unflatten(-1, (-1, SIDE, SIDE))
    if whole:
        shared = tokens[..., -whole:, None, None].expand(-1, -1, -1, SIDE, SIDE)
        own = torch.cat([own, shared], dim=2)
    return own.unflatten(1, (height // SIDE, width // SIDE)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
