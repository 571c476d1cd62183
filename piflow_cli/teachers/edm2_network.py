"""The U-Net of EDM2 (Karras et al., arXiv 2312.02696), whose layers keep the magnitude of what they are given.

Names and shapes of weights are those of the published networks. These learn the direction of each row, and gains
beside: what that does to an input is a function of weights alone. It is computed once, where a file is read
(`edm2.folded`), and the layers here are plain ones. Students train them as they are: rows of unit length want the
learning rate of their head. Rows of the files are longer by the root of their inputs, 42 in most, and would hardly
move at it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-4  # added to magnitudes that are divided by
SILU_MAGNITUDE = 0.596  # of silu(x) for unit normal x
# Shares of the second of two: class beside noise level, skip beside main path, branch beside what it branches off.
LABEL = 0.5
SKIP = 0.5
BRANCH = 0.3
LARGEST = 256.0  # activation


def normalised(x: Tensor, dim: int = 1) -> Tensor:
    """``x`` over its root mean square along ``dim``, in its own dtype: pixel norm."""
    size = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32) / math.sqrt(x.shape[dim])
    return x / (size + EPS).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """Equation 81."""
    return F.silu(x) / SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Equation 88: a and b as one, ``share`` in [0, 1] of it b."""
    return torch.lerp(a, b, share) / math.hypot(1 - share, share)


def mp_cat(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Equation 103: channels of a, then of b, whose contributions are as the shares, whatever their numbers."""
    ours, theirs = a.shape[1], b.shape[1]
    scale = math.sqrt((ours + theirs) / ((1 - share) ** 2 + share**2))
    return torch.cat([scale * (1 - share) / math.sqrt(ours) * a, scale * share / math.sqrt(theirs) * b], dim=1)


def convolution(inputs: int, outputs: int, side: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)


class Fourier(nn.Module):
    """Random features (B, width) of numbers (B,), float32; equation 75."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(width))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        return math.sqrt(2) * (x.float()[:, None] * self.freqs.float() + self.phases.float()).cos()


class Embedding(nn.Module):
    """The sum of what noise level and class give, (B, width); a module so that its output can be tapped."""

    def forward(self, noise: Tensor, label: Tensor) -> Tensor:
        return mp_sum(noise, label, LABEL)


class EDM2Block(nn.Module):
    """A residual block, with attention where ``heads`` is not 0; figure 21.

    ``encodes``: whether it is one of the encoder, which projects and normalises before it branches; those of the
    decoder project after.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, heads: int, encodes: bool):
        super().__init__()
        self.encodes, self.heads = encodes, heads
        self.conv_res0 = convolution(outputs if encodes else inputs, outputs, 3)
        self.emb_linear = nn.Linear(embedding, outputs, bias=False)
        self.conv_res1 = convolution(outputs, outputs, 3)
        self.conv_skip = convolution(inputs, outputs, 1) if inputs != outputs else None
        self.attn_qkv = convolution(outputs, 3 * outputs, 1) if heads else None
        self.attn_proj = convolution(outputs, outputs, 1) if heads else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.encodes:
            x = normalised(x if self.conv_skip is None else self.conv_skip(x))
        scale = self.emb_linear(embedding)[:, :, None, None] + 1
        branch = self.conv_res0(mp_silu(x))
        branch = self.conv_res1(mp_silu(branch * scale.to(branch.dtype)))
        if not self.encodes and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, branch.to(x.dtype), BRANCH)
        if self.attn_qkv is not None and self.attn_proj is not None:
            mixed = self.attn_proj(self._attended(self.attn_qkv(x)))
            x = mp_sum(x, mixed.to(x.dtype), BRANCH)
        return x.clamp(-LARGEST, LARGEST)

    def _attended(self, qkv: Tensor) -> Tensor:
        """Cosine attention: queries, keys and values alternate among the channels of a head, and are of one length."""
        batch, _, height, width = qkv.shape
        parts = normalised(qkv.reshape(batch, self.heads, -1, 3, height * width), dim=2)
        query, key, value = parts.permute(3, 0, 1, 4, 2).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(2, 3).reshape(batch, -1, height, width)


class EDM2UNet(ModelMixin, ConfigMixin):
    """Class-conditional U-Net: (c_in x, c_noise, class) to the residual F of EDM's preconditioning.

    Args:
        sample_size: side of a picture, which halves from level to level.
        in_channels: channels C of a picture.
        num_classes: classes are 0 .. num_classes - 1; the label `num_classes` means "no class".
        model_channels: the unit of widths.
        channel_mult: width of each level, in that unit.
        num_blocks: residual blocks of a level of the encoder; those of the decoder have one more.
        attn_resolutions: sides at which blocks attend.
        channels_per_head: of attention.

    Raises:
        ValueError: a size is not above 0, the side cannot be halved as often, or a width is no multiple of a head's.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["EDM2Block"]
    # Angles of sixteen bits are off by a hundredth of a turn.
    _keep_in_fp32_modules = ["emb_fourier"]

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 3,
        num_classes: int = 1000,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        channels_per_head: int = 64,
    ):
        super().__init__()
        _check_sizes(self.config)
        widths = [model_channels * times for times in channel_mult]
        embedding = max(widths)
        self.out_channels, self.num_classes = in_channels, num_classes
        self.gradient_checkpointing = False
        self.emb_fourier = Fourier(widths[0])
        self.emb_noise = nn.Linear(widths[0], embedding, bias=False)
        self.emb_label = nn.Linear(num_classes, embedding, bias=False)
        self.emb = Embedding()
        self.enc, skips = _encoder(self.config, widths, embedding)
        self.dec = _decoder(self.config, widths, embedding, skips)
        self.out_conv = convolution(widths[0], in_channels, 3)

    def forward(self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        """F (B, out_channels, H, W) at c_in x (B, C, H, W), c_noise = ln(s) / 4 (B,) and labels (B,), int64."""
        embedding = mp_silu(self._embedded(timestep, class_labels))
        x = torch.cat([hidden_states, torch.ones_like(hidden_states[:, :1])], dim=1)
        skips = []
        for name, block in self.enc.items():
            if name.endswith("_down"):
                x = F.avg_pool2d(x, 2)
            x = block(x) if name.endswith("_conv") else self._through(block, x, embedding)
            skips.append(x)
        for name, block in self.dec.items():
            if name.endswith("_up"):
                # Autocast has interpolate in float32, and all that follows with it.
                x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            elif "_block" in name:
                x = mp_cat(x, skips.pop(), SKIP)
            x = self._through(block, x, embedding)
        return self.out_conv(x)

    def _embedded(self, timestep: Tensor, class_labels: Tensor) -> Tensor:
        dtype = self.emb_noise.weight.dtype
        # No class is a column that is left out.
        told = F.one_hot(class_labels, self.num_classes + 1)[:, : self.num_classes].to(dtype)
        noise = self.emb_noise(self.emb_fourier(timestep).to(dtype))
        return self.emb(noise, self.emb_label(math.sqrt(self.num_classes) * told))

    def _through(self, block: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            # diffusers puts it there when checkpointing is switched on.
            checkpointed: Any = self._gradient_checkpointing_func
            return checkpointed(block, x, embedding)
        return block(x, embedding)


def _check_sizes(config: Any) -> None:
    for name in ("sample_size", "in_channels", "num_classes", "model_channels", "num_blocks", "channels_per_head"):
        size = getattr(config, name)
        if type(size) is not int or size < 1:
            raise ValueError(f"{name} {size!r} is not a whole number above 0")
    halvings = len(config.channel_mult) - 1
    if halvings < 0 or config.sample_size % 2**halvings:
        raise ValueError(f"sample_size {config.sample_size} cannot be halved {halvings} times")
    if wrong := [mult for mult in config.channel_mult if config.model_channels * mult % config.channels_per_head]:
        width = config.model_channels * wrong[0]
        raise ValueError(f"width {width} is not a multiple of channels_per_head {config.channels_per_head}")


def _heads(config: Any, width: int, side: int) -> int:
    return width // config.channels_per_head if side in config.attn_resolutions else 0


def _encoder(config: Any, widths: Sequence[int], embedding: int) -> tuple[nn.ModuleDict, list[int]]:
    """Its blocks, by their published names, and the width of what each gives."""
    side, given = config.sample_size, [widths[0]]
    # A channel of ones stands for a bias.
    blocks = nn.ModuleDict({f"{side}x{side}_conv": convolution(config.in_channels + 1, widths[0], 3)})
    for level, width in enumerate(widths):
        side = config.sample_size >> level
        if level:
            blocks[f"{side}x{side}_down"] = EDM2Block(given[-1], given[-1], embedding, 0, True)
            given.append(given[-1])
        for index in range(config.num_blocks):
            heads = _heads(config, width, side)
            blocks[f"{side}x{side}_block{index}"] = EDM2Block(given[-1], width, embedding, heads, True)
            given.append(width)
    return blocks, given


def _decoder(config: Any, widths: Sequence[int], embedding: int, skips: list[int]) -> nn.ModuleDict:
    """Its blocks, by their published names; ``skips``: widths of what the encoder gives."""
    blocks, rest, before = nn.ModuleDict(), list(skips), widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        side = config.sample_size >> level
        if level == len(widths) - 1:
            heads = before // config.channels_per_head
            blocks[f"{side}x{side}_in0"] = EDM2Block(before, before, embedding, heads, False)
            blocks[f"{side}x{side}_in1"] = EDM2Block(before, before, embedding, 0, False)
        else:
            blocks[f"{side}x{side}_up"] = EDM2Block(before, before, embedding, 0, False)
        for index in range(config.num_blocks + 1):
            heads = _heads(config, width, side)
            blocks[f"{side}x{side}_block{index}"] = EDM2Block(before + rest.pop(), width, embedding, heads, False)
            before = width
    return blocks
