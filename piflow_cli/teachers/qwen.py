"""Qwen-Image: packed latents, masked text, true classifier-free guidance against the empty prompt."""

from __future__ import annotations

from torch import Tensor, nn

from ..core.heads import HeadSite
from .base import Conditioning, matching
from .packing import POSITIONS, SIDE, pack, unpack
from .text_to_image import TextToImageFamily


class QwenImageFamily(TextToImageFamily):
    """Conditioning: ``prompt_embeds`` (B, L, D) and ``prompt_embeds_mask`` (B, L), zero where there is no token."""

    name = "qwen-image"
    model_name = "QwenImageTransformer2DModel"
    pipeline_name = "QwenImagePipeline"
    token_positions = POSITIONS
    trained_in_full = ("norm_out.linear",)
    config_not_published = ("patch_size", "guidance_embeds")

    def head_site(self, model: nn.Module) -> HeadSite:
        return HeadSite("proj_out", POSITIONS, channel_major=True, tap="norm_out", tap_at="input", tap_key=1)

    def adapter_targets(self, model: nn.Module) -> list[str]:
        found = matching(model, r".*\.(img_mlp|txt_mlp)\.net\.(0\.proj|2)|.*\.timestep_embedder\.linear_[12]")
        # What the last block makes of the text is not looked at.
        last = f"transformer_blocks.{model.config.num_layers - 1}.txt_mlp."
        return [name for name in found if not name.startswith(last)]

    def call(self, model: nn.Module, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        height, width = x.shape[-2:]
        tokens = model(
            hidden_states=pack(x),
            timestep=sigma.to(x.dtype),
            encoder_hidden_states=conditioning["prompt_embeds"],
            encoder_hidden_states_mask=conditioning["prompt_embeds_mask"],
            img_shapes=[[(1, height // SIDE, width // SIDE)]] * x.shape[0],
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def latent_channels(self, model: nn.Module) -> int:
        return model.config.in_channels // POSITIONS

    def embedding_dim(self, model: nn.Module) -> int:
        return model.config.num_attention_heads * model.config.attention_head_dim
