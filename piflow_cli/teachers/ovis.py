"""Ovis-Image: packed latents, one text of fixed length without a mask, classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .base import Conditioning, Network, matching
from .encoders import negative_of
from .packed import PackedFamily, image_ids, text_ids
from .packing import SIDE
from .texts import longest_whole


class OvisImageFamily(PackedFamily):
    """Conditioning: ``prompt_embeds`` (B, L, D), padded with zeros to one length, all of which the network reads."""

    name = "ovis-image"
    model_name = "OvisImageTransformer2DModel"
    pipeline_name = "OvisImagePipeline"
    text_length = 256

    def adapter_targets(self, model: Network) -> list[str]:
        single = r"single_transformer_blocks\.\d+\.(proj_mlp|proj_out)"
        return matching(model, rf"{single}|.*\.(ff|ff_context)\.net\.(0\.proj|2)|timestep_embedder\.linear_[12]")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        height, width = x.shape[-2:]
        return self.through(
            model,
            x,
            sigma,
            conditioning,
            img_ids=image_ids(height // SIDE, width // SIDE, x),
            txt_ids=text_ids(conditioning["prompt_embeds"].shape[1], x),
        )

    def longest_conditioning(self, model: Network) -> Conditioning:
        return longest_whole(self.text_length, model.config.joint_attention_dim)

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        options = {"do_classifier_free_guidance": False, "max_sequence_length": self.text_length}
        return [{"prompt_embeds": text} for text in pipeline.encode_prompt(list(texts), **options)[0]]

    def token_counts(self, pipeline: Any, texts: Sequence[str]) -> list[int]:
        # The beginning of the template is encoded and then dropped.
        whole = pipeline.tokenizer(pipeline._get_messages(list(texts)), add_special_tokens=False).input_ids
        return [len(tokens) - pipeline.user_prompt_begin_id for tokens in whole]

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        guided = bool(negative_of(conditioning))
        # Its negative prompt is "" unless it is told otherwise, and may not stand beside embeddings.
        return {**conditioning, "negative_prompt": None, "guidance_scale": self.guidance if guided else 1.0}
