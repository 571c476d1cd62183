"""LoRAs for the tiny networks of the zoo, written as other tools write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import seeded
from safetensors.torch import save_file
from torch import Tensor, nn
from zoo import ZOO

FLUX = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_k", "transformer_blocks.0.ff.net.2")
UNET = (
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.1.attentions.0.proj_in",
    "down_blocks.0.resnets.0.conv1",
)  # fmt: skip
WAN = ("blocks.0.attn1.to_q", "blocks.1.ffn.net.2")
MODULES = {
    "flux": FLUX,
    "flux-cfg": FLUX,
    "flux2": ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_out"),
    "flux2-klein": ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_out"),
    "flux3-klein": ("mode_blocks.image.0.attn.to_q", "single_transformer_blocks.1.ff.linear_out"),
    "chroma": FLUX,
    "qwen-image": ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.img_mlp.net.2"),
    "longcat-image": FLUX,
    "ovis-image": ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.proj_mlp"),
    "ernie-image": ("layers.0.self_attention.to_q", "layers.1.mlp.up_proj"),
    "krea2": ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.ff.gate"),
    "kandinsky6": (
        "visual_transformer_blocks.0.video_dec_block.self_attention.to_query",
        "visual_transformer_blocks.1.video_dec_block.feed_forward.net.2",
    ),
    "ltx": ("transformer_blocks.0.attn1.to_q", "transformer_blocks.1.ff.net.2"),
    "sana": ("transformer_blocks.0.attn1.to_q", "transformer_blocks.1.attn2.to_k"),
    # A linear layer, a convolution of one pixel in sd15 and a linear layer in sdxl, and one of three.
    "sd15": UNET,
    "sdxl": UNET,
    "sd3": ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.ff.net.2"),
    "wan": WAN,
    "wan-ti2v": WAN,
    "z-image": ("layers.0.attention.to_q", "noise_refiner.0.feed_forward.w1"),
}
every_lora_family = pytest.mark.parametrize("row", [ZOO[name] for name in MODULES], ids=MODULES)
ALPHAS = (1.0, 6.0, 3.0)
RANKS = (2, 4, 3)


def dotted(prefix: str, down: str, up: str) -> Callable[[str, str], str]:
    suffixes = {"down": down, "up": up, "alpha": "alpha"}
    return lambda module, part: f"{prefix}{module}.{suffixes[part]}"


def flat(prefix: str) -> Callable[[str, str], str]:
    name = dotted(prefix, "lora_down.weight", "lora_up.weight")
    return lambda module, part: name(module.replace(".", "_"), part)


FORMS = {
    "diffusers": dotted("transformer.", "lora_A.weight", "lora_B.weight"),
    "state dict of peft": dotted("transformer.", "lora_A.default.weight", "lora_B.default.weight"),
    "peft": dotted("base_model.model.", "lora_A.weight", "lora_B.weight"),
    "pipeline of peft": dotted("transformer.base_model.model.", "lora_A.default.weight", "lora_B.default.weight"),
    "named adapter": dotted("base_model.model.", "lora_A.my_style.weight", "lora_B.my_style.weight"),
    "adapter with dashes": dotted("base_model.model.", "lora_A.my-style.weight", "lora_B.my-style.weight"),
    "comfyui": dotted("diffusion_model.", "lora_A.weight", "lora_B.weight"),
    "whole checkpoint": dotted("model.diffusion_model.", "lora_A.weight", "lora_B.weight"),
    "bare": dotted("", "lora_A.weight", "lora_B.weight"),
    "kohya": flat("lora_unet_"),
    "lycoris": flat("lycoris_"),
    "onetrainer": flat("lora_transformer_"),
    "down and up": dotted("transformer.", "lora_down.weight", "lora_up.weight"),
    "old diffusers": dotted("transformer.", "lora.down.weight", "lora.up.weight"),
    "diffusers' U-Nets": dotted("unet.", "lora_A.weight", "lora_B.weight"),
    "pipeline of peft with a U-Net": dotted("unet.base_model.model.", "lora_A.default.weight", "lora_B.default.weight"),
}


def factors(model: nn.Module, module: str, rank: int) -> tuple[Tensor, Tensor]:
    out, *into = model.get_submodule(module).weight.shape
    generator, pixels = seeded(rank), (1,) * (len(into) - 1)
    return torch.randn(rank, *into, generator=generator), torch.randn(out, rank, *pixels, generator=generator)


def product(down: Tensor, up: Tensor) -> Tensor:
    """What factors add to a weight, for a convolution summed over the channels between them."""
    return torch.einsum("or,ri...->oi...", up.flatten(1), down)


def written(
    path: Path, model: nn.Module, modules: tuple[str, ...], name: Callable[[str, str], str], alphas: bool = True
) -> Path:
    tensors = {}
    for module, alpha, rank in zip(modules, ALPHAS, RANKS):
        down, up = factors(model, module, rank)
        tensors |= {name(module, "down"): down, name(module, "up"): up}
        if alphas:
            tensors[name(module, "alpha")] = torch.tensor(alpha)
    save_file(tensors, path)
    return path
