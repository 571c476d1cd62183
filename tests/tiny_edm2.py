"""A tiny random network of EDM2, and its state dict as that of a released one."""

from __future__ import annotations

import math

import torch
from helpers import seeded
from torch import Tensor

from piflow_cli.teachers.edm2 import folded
from piflow_cli.teachers.edm2_network import EDM2UNet

SIZES = {
    "sample_size": 4,
    "in_channels": 2,
    "num_classes": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [2],
    "channels_per_head": 8,
}


def released() -> dict[str, Tensor]:
    """Weights of any length by names in alphabetical order, from one generator; gains of 0.8."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in EDM2UNet(**SIZES).state_dict().items()}
    generator = seeded(5)
    drawn = {name: torch.randn(shapes[name], generator=generator) for name in sorted(shapes)}
    for name in drawn:
        drawn[name] = drawn[name] * (2 * math.pi if name.startswith("emb_fourier") else 0.7)
    gains = [name.replace("emb_linear.weight", "emb_gain") for name in drawn if name.endswith("emb_linear.weight")]
    drawn |= {name: torch.tensor(0.8) for name in ("out_gain", *gains)}
    beside = {"logvar_fourier.freqs": torch.ones(4), "logvar_linear.weight": torch.ones(1, 4)}
    return {**{f"unet.{name}": value for name, value in drawn.items()}, **beside}


def tiny_edm2() -> EDM2UNet:
    model = EDM2UNet(**SIZES)
    model.load_state_dict(folded(released(), SIZES)[1])
    return model.eval()
