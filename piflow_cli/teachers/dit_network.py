"""The class-conditional diffusion transformer of ImageNet checkpoints and of the digits teacher.

DiT (Peebles and Xie, arXiv 2212.09748) trained as a flow model like SiT (Ma et al., arXiv 2401.08740), with one
embedding of time and class shared by all blocks. Parameter names are those of the published pi-Flow checkpoints.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional as F

SINUSOID_CHANNELS = 256
NORM_EPS = 1e-6
# Below, no sinusoid tells one time from another; above, float32 angles have lost the fraction of a turn.
TIME_SCALES = (1e-3, 1e6)


def sinusoid_frequencies(channels: int = SINUSOID_CHANNELS, device: torch.device | None = None) -> torch.Tensor:
    """exp(-ln(1e4) i / (channels/2)) for i from 0, float32 (channels/2,)."""
    half = channels // 2
    return torch.exp(-math.log(10_000.0) * torch.arange(half, dtype=torch.float32, device=device) / half)


def sinusoid(time: torch.Tensor, channels: int = SINUSOID_CHANNELS) -> torch.Tensor:
    """Embed times (B,) as float32 (B, channels): cosines, then sines, of frequencies exp(-ln(1e4) i / (channels/2))."""
    angles = time.float()[:, None] * sinusoid_frequencies(channels, time.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def position_table(grid_size: int, channels: int) -> torch.Tensor:
    """2-D sine-cosine position embedding, float32 (1, grid_size^2, channels), patches in row-major order.

    The first half of the channels encodes the column, the second the row; each is sines, then cosines.
    """
    quarter = channels // 4
    frequencies = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(grid_size, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=-1)
    columns = line[None, :, :].expand(grid_size, -1, -1)
    rows = line[:, None, :].expand(-1, grid_size, -1)
    return torch.cat([columns, rows], dim=-1).reshape(1, grid_size**2, channels).float()


class PatchEmbedding(nn.Module):
    """Cut (B, C, H, W) into patches, project them and add their positions: (B, tokens, width)."""

    def __init__(self, grid_size: int, patch_size: int, in_channels: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        self.register_buffer("positions", position_table(grid_size, width), persistent=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        tokens = self.proj(hidden_states).flatten(2).transpose(1, 2)
        # A buffer keeps its dtype where weights are loaded in another.
        return tokens + self.positions.to(tokens.dtype)


class TimestepEmbedder(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_CHANNELS, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(F.silu(self.linear_1(features)))


class ClassEmbedder(nn.Module):
    """A row for each class, and a last one for "no class"."""

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, class_labels: torch.Tensor) -> torch.Tensor:
        return self.embedding_table(class_labels)


class ConditionEmbedding(nn.Module):
    """The sum of time and class embedding, (B, width)."""

    def __init__(self, num_classes: int, width: int, time_scale: float):
        super().__init__()
        self.time_scale = time_scale
        self.timestep_embedder = TimestepEmbedder(width)
        self.class_embedder = ClassEmbedder(num_classes, width)

    def forward(self, sigma: torch.Tensor, class_labels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        features = sinusoid(self.time_scale * sigma.float()).to(dtype)
        return self.timestep_embedder(features) + self.class_embedder(class_labels)


class AdaLayerNormZero(nn.Module):
    """Layer norm modulated by the embedding; also hands out the modulations of the rest of the block.

    The six chunks of `linear` are (shift, scale, gate) of the attention, then of the MLP.
    """

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 6 * width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)

    def forward(self, tokens: torch.Tensor, embedding: torch.Tensor) -> tuple[torch.Tensor, ...]:
        chunks = self.linear(F.silu(embedding))[:, None].chunk(6, dim=-1)
        shift, scale, *rest = chunks
        return modulate(self.norm(tokens), shift, scale), *rest


def modulate(tokens: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(shift, tokens, 1 + scale)


class SelfAttention(nn.Module):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            projection(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.to_out[0](mixed.transpose(1, 2).flatten(2))


class TanhGELU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.proj(tokens), approximate="tanh")


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        # The published names count a dropout at index 1.
        self.net = nn.Sequential(TanhGELU(width, inner), nn.Identity(), nn.Linear(inner, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.net(tokens)


class DiTBlock(nn.Module):
    def __init__(self, width: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1 = AdaLayerNormZero(width)
        self.attn1 = SelfAttention(width, num_heads)
        self.norm3 = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.ff = FeedForward(width, int(width * mlp_ratio))

    def forward(self, tokens: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        normed, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.norm1(tokens, embedding)
        tokens = torch.addcmul(tokens, gate_attn, self.attn1(normed))
        return torch.addcmul(tokens, gate_mlp, self.ff(modulate(self.norm3(tokens), shift_mlp, scale_mlp)))


class DiT(ModelMixin, ConfigMixin):
    """Class-conditional flow transformer: (x_sigma, sigma, class) to the velocity u = eps - x_0.

    Args:
        sample_size: height and width of the image or latent; a multiple of `patch_size`.
        patch_size: side of a patch.
        in_channels: channels C of the image or latent.
        num_layers, num_attention_heads, attention_head_dim: size; the width, heads times head size, is a multiple of 4.
        num_classes: classes are 0 .. num_classes - 1; the label `num_classes` means "no class".
        mlp_ratio: inner width of the feed-forward layers over the width.
        time_scale: the network is fed `time_scale` * sigma.

    The attribute `out_channels` (C at construction) is read in every call, so that a module in place of `proj_out_2`
    may emit more channels per pixel. `proj_out_1` is fed silu(time + class embedding).

    Raises:
        ValueError: a size or `time_scale` is not above 0, `sample_size` is no multiple of `patch_size`, or the width no
            multiple of 4.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["DiTBlock"]

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        num_layers: int = 28,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        num_classes: int = 1000,
        mlp_ratio: float = 4.0,
        time_scale: float = 1000.0,
    ):
        super().__init__()
        for name, size in (("sample_size", sample_size), ("patch_size", patch_size), ("in_channels", in_channels)):
            if type(size) is not int or size < 1:
                raise ValueError(f"{name} {size!r} is not a whole number above 0")
        if type(time_scale) not in (int, float) or not 0 < time_scale < math.inf:
            raise ValueError(f"time_scale {time_scale!r} is not a number above 0")
        if not TIME_SCALES[0] <= time_scale <= TIME_SCALES[1]:
            raise ValueError(f"time_scale {time_scale:g} is not from {TIME_SCALES[0]:g} to {TIME_SCALES[1]:g}")
        width = num_attention_heads * attention_head_dim
        if sample_size % patch_size:
            raise ValueError(f"sample_size {sample_size} is not a multiple of patch_size {patch_size}")
        if width % 4:
            raise ValueError(f"width {width} (heads x head size) is not a multiple of 4")
        self.out_channels = in_channels
        self.gradient_checkpointing = False
        self.pos_embed = PatchEmbedding(sample_size // patch_size, patch_size, in_channels, width)
        self.emb = ConditionEmbedding(num_classes, width, time_scale)
        self.transformer_blocks = nn.ModuleList(
            DiTBlock(width, num_attention_heads, mlp_ratio) for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.proj_out_1 = nn.Linear(width, 2 * width)
        self.proj_out_2 = nn.Linear(width, patch_size**2 * in_channels)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """The DiT recipe: Xavier-uniform layers; modulations and output zero, so every block starts as identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.pos_embed.proj.weight.flatten(1))
        assert self.pos_embed.proj.bias is not None
        nn.init.zeros_(self.pos_embed.proj.bias)
        nn.init.normal_(self.emb.class_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(self.emb.timestep_embedder.linear_1.weight, std=0.02)
        nn.init.normal_(self.emb.timestep_embedder.linear_2.weight, std=0.02)
        modulations = [cast(DiTBlock, block).norm1.linear for block in self.transformer_blocks]
        for layer in (*modulations, self.proj_out_1, self.proj_out_2):
            nn.init.zeros_(layer.weight)

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        """Velocity (B, out_channels, H, W) at states (B, C, H, W), sigma (B,) in [0, 1] and labels (B,), int64."""
        tokens = self.pos_embed(hidden_states)
        embedding = self.emb(timestep, class_labels, tokens.dtype)
        # diffusers puts it there when checkpointing is switched on.
        checkpointed: Any = self._gradient_checkpointing_func
        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = checkpointed(block, tokens, embedding)
            else:
                tokens = block(tokens, embedding)
        shift, scale = self.proj_out_1(F.silu(embedding))[:, None].chunk(2, dim=-1)
        return self._unpatchify(self.proj_out_2(modulate(self.norm_out(tokens), shift, scale)))

    def _unpatchify(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, patch = tokens.shape[0], self.config["patch_size"]
        grid = self.config["sample_size"] // patch
        cells = tokens.reshape(batch, grid, grid, patch, patch, self.out_channels)
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(batch, self.out_channels, grid * patch, grid * patch)
