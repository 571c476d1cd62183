"""Qwen-Image: packed latents, masked text, true classifier-free guidance against the empty prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..core.tensors import to_device
from .base import Conditioning, Network, matching
from .encoders import negative_of
from .packed import PackedFamily
from .packing import SIDE
from .texts import MASK, MASKS, longest_masked, masked


class QwenVaeFamily(PackedFamily):
    """Models that share the VAE of Qwen-Image. It is one of videos: a picture is a frame."""

    vae_name = "AutoencoderKLQwenImage"

    def encode_images(self, vae: Network, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = super().encode_images(vae, images.unsqueeze(2))
        return mean.squeeze(2), std.squeeze(2)

    def decode_latents(self, vae: Network, latents: Tensor) -> Tensor:
        return super().decode_latents(vae, latents.unsqueeze(2)).squeeze(2)

    def latent_statistics(self, vae: Network, latents: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            latents.new_tensor(values).reshape(-1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return mean, std


class QwenImageFamily(QwenVaeFamily):
    """Conditioning: ``prompt_embeds`` (B, L, D) and ``prompt_embeds_mask`` (B, L), zero where there is no token."""

    name = "qwen-image"
    model_name = "QwenImageTransformer2DModel"
    pipeline_name = "QwenImagePipeline"
    read_on_host = MASKS
    config_not_published = (*PackedFamily.config_not_published, "guidance_embeds")

    def adapter_targets(self, model: Network) -> list[str]:
        found = matching(model, r".*\.(img_mlp|txt_mlp)\.net\.(0\.proj|2)|.*\.timestep_embedder\.linear_[12]")
        # The text output of the last block is not used.
        last = f"transformer_blocks.{model.config.num_layers - 1}.txt_mlp."
        return [name for name in found if not name.startswith(last)]

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        shapes = [self.shapes(x, conditioning)] * x.shape[0]
        # Under a mask attention has no fast kernel, and texts of one length have nothing to mask.
        mask = None if conditioning[MASK].all() else to_device(conditioning[MASK], x.device)
        return self.through(model, x, sigma, conditioning, encoder_hidden_states_mask=mask, img_shapes=shapes)

    def shapes(self, x: Tensor, conditioning: Conditioning) -> list[tuple[int, int, int]]:
        """Frames, rows and columns of tokens of each picture that the network is given with a state (B, C, H, W)."""
        return [(1, x.shape[-2] // SIDE, x.shape[-1] // SIDE)]

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        device = conditioning["prompt_embeds"].device
        # The pipeline drops a mask that hides nothing, and need not ask the device whether it does.
        masks = {
            name: value if value.all() else to_device(value, device)
            for name, value in conditioning.items()
            if name in self.read_on_host
        }
        return {**conditioning, **masks, "true_cfg_scale": self.guidance if negative_of(conditioning) else 1.0}

    def longest_conditioning(self, model: Network) -> Conditioning:
        return longest_masked(self.text_length, model.config.joint_attention_dim)

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        # One at a time: what a text encoder makes of a prompt must not depend on the prompts it is padded with.
        found = [pipeline.encode_prompt(text, max_sequence_length=self.text_length)[0][0] for text in texts]
        return [masked(embeds) for embeds in found]

    def token_counts(self, pipeline: Any, texts: Sequence[str]) -> list[int]:
        # The beginning of the template is encoded and then dropped.
        whole = [pipeline.prompt_template_encode.format(text) for text in texts]
        return [len(pipeline.tokenizer(text).input_ids) - pipeline.prompt_template_encode_start_idx for text in whole]
