"""Tiny random VAEs of the text-to-image families."""

from __future__ import annotations

import diffusers
import torch
from torch import nn

from piflow_cli.teachers import family_of

# Whose stock pipelines know of no shift.
UNSHIFTED = ("sd15", "sdxl")


def tiny_ti2v_vae() -> nn.Module:
    """In the layout of that of Wan 2.2 TI2V: pictures are cut into patches, and a latent position is 16 pixels wide."""
    torch.manual_seed(0)
    return diffusers.AutoencoderKLWan(
        base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, is_residual=True,
        patch_size=2, in_channels=12, out_channels=12, temperal_downsample=[False, True, True], scale_factor_spatial=16,
        latents_mean=[0.5, -1.0, 2.0, 0.0], latents_std=[2.0, 3.0, 0.5, 1.0],
    ).eval()  # fmt: skip


def tiny_ltx_vae(halvings: int, patch: int = 1, **others: object) -> nn.Module:
    """That of LTX-Video: pictures are cut into patches of that many pixels each way, and halved so many times."""
    torch.manual_seed(0)
    channels, halved, blocks = (8,) * halvings, (True,) * halvings, (1,) * (halvings + 1)
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=channels, decoder_block_out_channels=channels, patch_size=patch,
        down_block_types=("LTXVideoDownBlock3D",) * halvings, downsample_type=("conv",) * halvings,
        layers_per_block=blocks, decoder_layers_per_block=blocks, spatio_temporal_scaling=halved,
        decoder_spatio_temporal_scaling=halved, upsample_factor=(1,) * halvings,
        upsample_residual=(False,) * halvings, **{"decoder_inject_noise": (False,) * len(blocks), **others},
    ).eval()  # fmt: skip
    vae.latents_mean.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0]))
    vae.latents_std.copy_(torch.tensor([2.0, 3.0, 0.5, 1.0]))
    return vae


def tiny_vae(name: str, factor: int = 8) -> nn.Module:
    """The VAE of the family ``name``: latents of four channels, ``factor`` pixels a position each way."""
    torch.manual_seed(0)
    stages = factor.bit_length()
    if family_of(name).vae_name == "AutoencoderKLLTXVideo":
        # Time is halved as often as the sides, and patches are of pictures alone.
        return tiny_ltx_vae(min(stages - 1, 3), max(1, factor // 8))
    if family_of(name).vae_name in ("AutoencoderKLQwenImage", "AutoencoderKLWan"):
        stated = {"scale_factor_spatial": factor} if name.startswith("wan") else {}
        return getattr(diffusers, family_of(name).vae_name)(
            **stated,
            base_dim=8,
            z_dim=4,
            dim_mult=[1] * stages,
            temperal_downsample=[False, True, True][: stages - 1],
            num_res_blocks=1,
            attn_scales=[],
            latents_mean=[0.5, -1.0, 2.0, 0.0],
            latents_std=[2.0, 3.0, 0.5, 1.0],
        ).eval()
    if family_of(name).vae_name == "AutoencoderKLHunyuanVideo":
        return diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * stages,
            up_block_types=("HunyuanVideoUpBlock3D",) * stages,
            block_out_channels=(8,) * stages,
            layers_per_block=1,
            norm_num_groups=4,
            scaling_factor=0.5,
            spatial_compression_ratio=factor,
        ).eval()
    blocks = {
        "down_block_types": ["DownEncoderBlock2D"] * stages,
        "up_block_types": ["UpDecoderBlock2D"] * stages,
        "block_out_channels": (8,) * stages,
    }
    if family_of(name).vae_name == "AutoencoderDC":
        sides = {
            f"{half}_{what}": value
            for half in ("encoder", "decoder")
            for what, value in (
                ("block_out_channels", (8,) * stages),
                ("layers_per_block", (1,) * stages),
                ("qkv_multiscales", ((),) * stages),
            )
        }
        return diffusers.AutoencoderDC(latent_channels=4, attention_head_dim=4, scaling_factor=0.5, **sides).eval()
    if family_of(name).vae_name == "AutoencoderKLFlux2":
        vae = diffusers.AutoencoderKLFlux2(
            latent_channels=4, norm_num_groups=4, layers_per_block=1, sample_size=64, **blocks
        ).eval()
        vae.bn.running_mean.copy_(torch.linspace(-1, 1, 16))
        vae.bn.running_var.copy_(torch.linspace(0.25, 4, 16))
        return vae
    return diffusers.AutoencoderKL(
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=None if name in UNSHIFTED else 0.25,
        **blocks,
    ).eval()
