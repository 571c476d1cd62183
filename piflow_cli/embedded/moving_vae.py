"""An autoencoder of Wan's class that has learned nothing: it shows a latent position as a square of its own grey."""

from __future__ import annotations

import torch
from torch import nn

from ..teachers.base import Network

# Beside values from -1 to 1, its norm is a constant but for a millionth.
CONSTANT = 1000.0
WIDTH = 4  # channels: the constant, a grey, and what it is with the other sign


@torch.no_grad()
def new_vae() -> Network:
    """Latents (B, 1, F, H, W) in [-1, 1] → videos (B, 3, 4 F - 3, 8 H, 8 W) of the same greys, within 1e-5.

    The first frame of latents is shown once and every other one four times, as Wan's autoencoder counts them. Weights
    are set by hand: blocks add nothing, convolutions pass channels on, a constant channel keeps the last norm from
    changing the others, and silu(x) - silu(-x) = x undoes the last activation. The encoder has random weights.
    """
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    vae: Network = AutoencoderKLWan(
        base_dim=WIDTH,
        z_dim=1,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[False, True, True],
        latents_mean=[0.0],
        latents_std=[1.0],
    )
    decoder = vae.decoder
    for value in (*vae.post_quant_conv.parameters(), *decoder.parameters()):
        value.zero_()
    grey = torch.tensor([0.0, 1.0, -1.0, 0.0])
    _now(vae.post_quant_conv).fill_(1)
    _now(decoder.conv_in)[:, 0] = grey
    decoder.conv_in.bias[0] = CONSTANT
    for block in decoder.up_blocks:
        first = block.resnets[0].conv_shortcut
        if isinstance(first, nn.Conv3d):
            _now(first)[0, 0] = 1
            _now(first)[:, 1] = grey
        if block.upsamplers is not None:
            _upsample(block.upsamplers[0])
    # Of length CONSTANT, the norm makes a vector of length 2, the root of its channels.
    decoder.norm_out.gamma.fill_(CONSTANT / WIDTH**0.5)
    _now(decoder.conv_out)[:] = grey
    return vae.eval()


def _now(layer: nn.Conv3d) -> torch.Tensor:
    """Of a causal convolution the weights (C', C) of the position itself, to be written."""
    rows, columns = layer.kernel_size[1:]
    return layer.weight[:, :, -1, rows // 2, columns // 2]


def _upsample(layer: Network) -> None:
    """Pass the constant and the grey on, and, where time is doubled, all channels to both frames."""
    layer.resample[1].weight[:, :, 1, 1] = torch.eye(WIDTH // 2, WIDTH)
    if layer.mode == "upsample3d":
        _now(layer.time_conv)[:] = torch.eye(WIDTH).repeat(2, 1)
