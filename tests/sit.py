"""A SiT (arXiv 2401.08740) as its released checkpoints name and order things, in plain functions of a state dict.

Written from the paper and the names of the tensors, apart from the package, to be an independent ruler of conversions.
"""

from __future__ import annotations

import math

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor
from torch.nn import functional as F

HEADS, WIDTH, LAYERS, PATCH, CHANNELS, SIZE, CLASSES = 2, 16, 2, 2, 4, 8, 5


def sit_weights(seed: int = 0, learned_variance: bool = True, projectors: bool = False) -> dict[str, Tensor]:
    """Random weights of a small SiT; REPA's releases (arXiv 2410.06940) have projectors and no learned variance."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}

    def layer(name: str, rows: int, *columns: int) -> None:
        weights[f"{name}.weight"] = 0.3 * torch.randn(rows, *columns, generator=generator)
        weights[f"{name}.bias"] = 0.3 * torch.randn(rows, generator=generator)

    layer("x_embedder.proj", WIDTH, CHANNELS, PATCH, PATCH)
    layer("t_embedder.mlp.0", WIDTH, 256)
    layer("t_embedder.mlp.2", WIDTH, WIDTH)
    weights["y_embedder.embedding_table.weight"] = torch.randn(CLASSES + 1, WIDTH, generator=generator)
    for n in range(LAYERS):
        layer(f"blocks.{n}.attn.qkv", 3 * WIDTH, WIDTH)
        layer(f"blocks.{n}.attn.proj", WIDTH, WIDTH)
        layer(f"blocks.{n}.mlp.fc1", 4 * WIDTH, WIDTH)
        layer(f"blocks.{n}.mlp.fc2", WIDTH, 4 * WIDTH)
        layer(f"blocks.{n}.adaLN_modulation.1", 6 * WIDTH, WIDTH)
    layer("final_layer.linear", PATCH**2 * CHANNELS * (2 if learned_variance else 1), WIDTH)
    layer("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)
    grid = SIZE // PATCH
    weights["pos_embed"] = get_2d_sincos_pos_embed(WIDTH, grid, base_size=grid, output_type="pt")[None].float()
    if projectors:
        layer("projectors.0.0", 24, WIDTH)
    return weights


def sit(weights: dict[str, Tensor], x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """What SiT emits at states x (B, 4, 8, 8), times t (B,) and labels (B,): x_0 - eps if t runs from noise to data."""

    def linear(name: str, value: Tensor) -> Tensor:
        return F.linear(value, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(value: Tensor) -> Tensor:
        return (value - value.mean(-1, keepdim=True)) / (value.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    angles = t[:, None] * torch.tensor([10_000.0 ** (-i / 128) for i in range(128)])
    features = torch.cat([angles.cos(), angles.sin()], dim=1)
    c = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", features)))
    c = F.silu(c + weights["y_embedder.embedding_table.weight"][labels])
    tokens = F.conv2d(x, weights["x_embedder.proj.weight"], weights["x_embedder.proj.bias"], stride=PATCH)
    tokens = tokens.flatten(2).mT + weights["pos_embed"]
    for n in range(LAYERS):
        parts = linear(f"blocks.{n}.adaLN_modulation.1", c)[:, None].split(WIDTH, dim=-1)
        normed = norm(tokens) * (1 + parts[1]) + parts[0]
        batch, count, _ = normed.shape
        q, k, v = linear(f"blocks.{n}.attn.qkv", normed).reshape(batch, count, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        attended = (q @ k.mT / math.sqrt(WIDTH // HEADS)).softmax(-1) @ v
        tokens = tokens + parts[2] * linear(f"blocks.{n}.attn.proj", attended.transpose(1, 2).flatten(2))
        normed = norm(tokens) * (1 + parts[4]) + parts[3]
        inner = F.gelu(linear(f"blocks.{n}.mlp.fc1", normed), approximate="tanh")
        tokens = tokens + parts[5] * linear(f"blocks.{n}.mlp.fc2", inner)
    shift, scale = linear("final_layer.adaLN_modulation.1", c)[:, None].chunk(2, dim=-1)
    out = linear("final_layer.linear", norm(tokens) * (1 + scale) + shift)
    grid = SIZE // PATCH
    cells = out.reshape(len(x), grid, grid, PATCH, PATCH, -1).permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, SIZE, SIZE)
    return cells[:, :CHANNELS]
