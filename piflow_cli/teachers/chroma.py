"""Chroma: packed latents, T5 alone with one token of its padding, and a small network that makes all modulations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.tensors import to_device
from .base import Conditioning, Network, matching
from .encoders import ATTENTION_MASK, ATTENTION_MASKS, negative_of
from .packed import PackedFamily, image_ids
from .packing import POSITIONS, SIDE
from .texts import attended, longest_attended


class ChromaFamily(PackedFamily):
    """Conditioning: ``prompt_embeds`` (B, L, D) of T5 and ``prompt_attention_mask`` (B, L), False at no token.

    The pipeline pads every text to 512 tokens and shows the network the first of the padding. What is masked changes
    nothing, since text has no positions here, and is left out.

    There is no timestep embedding: the approximator makes of the time all modulations of all blocks, (B, n, D). The
    last two are of ``norm_out``, its shift and its scale, and the head is told the scale.
    """

    name = "chroma"
    model_name = "ChromaTransformer2DModel"
    pipeline_name = "ChromaPipeline"
    read_on_host = ATTENTION_MASKS
    # No norm has a layer of its own.
    trained_in_full = ()

    def adapter_targets(self, model: Network) -> list[str]:
        single = r"single_transformer_blocks\.\d+\.(proj_mlp|proj_out)"
        approximator = r"distilled_guidance_layer\.(layers\.\d+\.linear_[12]|out_proj)"
        return matching(model, rf"{single}|.*\.(ff|ff_context)\.net\.(0\.proj|2)|{approximator}")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        if torch.is_grad_enabled() and len(x) > 1:
            # Gradient checkpointing gives single blocks no mask, and a text alone needs none. Whatever the lengths:
            # processes that share weights out must call the network equally often.
            parts = ({name: value[row : row + 1] for name, value in conditioning.items()} for row in range(len(x)))
            rows = zip(x.split(1), sigma.split(1), parts, strict=True)
            return torch.cat([self.call(model, *row) for row in rows])
        height, width = x.shape[-2:]
        longest = int(conditioning[ATTENTION_MASK].sum(dim=1).max())
        texts, mask = conditioning["prompt_embeds"][:, :longest], conditioning[ATTENTION_MASK][:, :longest]
        return self.through(
            model,
            x,
            sigma,
            {"prompt_embeds": texts},
            attention_mask=_with_picture(mask, x),
            img_ids=image_ids(height // SIDE, width // SIDE, x),
            txt_ids=x.new_zeros(longest, 3),
        )

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        device = conditioning["prompt_embeds"].device
        masks = {name: to_device(value, device) for name, value in conditioning.items() if name in self.read_on_host}
        return {**conditioning, **masks, "guidance_scale": self.guidance if negative_of(conditioning) else 1.0}

    def longest_conditioning(self, model: Network) -> Conditioning:
        return longest_attended(self.text_length, model.config.joint_attention_dim)

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        options = {"do_classifier_free_guidance": False, "max_sequence_length": self.text_length}
        embeds, _, masks, *_ = pipeline.encode_prompt(list(texts), **options)
        # The pipeline makes them numbers, which attention adds instead of masking: diffusers' issue 12116.
        return [attended(text, mask.bool()) for text, mask in zip(embeds, masks, strict=True)]


def _with_picture(mask: Tensor, x: Tensor) -> Tensor | None:
    """``mask`` (B, L) with the tokens of latents ``x``, all of which count; None where nothing is masked.

    Under a mask attention has no fast kernel, and texts of one length have nothing to mask.
    """
    if mask.all():
        return None
    picture = x.new_ones(len(x), x[0, 0].numel() // POSITIONS, dtype=torch.bool)
    return torch.cat([to_device(mask, x.device), picture], dim=1)
