"""LongCat-Image: packed latents, one text of fixed length without a mask, pictures that begin where texts end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Conditioning, Network, matching
from .encoders import negative_of
from .packed import PackedFamily, image_ids, text_ids
from .packing import SIDE
from .texts import longest_whole

PICTURE = 1  # the first of a position's three numbers; that of texts is 0


class LongCatImageFamily(PackedFamily):
    """Conditioning: ``prompt_embeds`` (B, L, D), padded to one length, all of which the network reads."""

    name = "longcat-image"
    model_name = "LongCatImageTransformer2DModel"
    pipeline_name = "LongCatImagePipeline"

    def adapter_targets(self, model: Network) -> list[str]:
        single = r"single_transformer_blocks\.\d+\.(proj_mlp|proj_out)"
        return matching(model, rf"{single}|.*\.(ff|ff_context)\.net\.(0\.proj|2)|.*\.timestep_embedder\.linear_[12]")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        height, width = x.shape[-2:]
        pictures = image_ids(height // SIDE, width // SIDE, x.new_empty(0, dtype=torch.float32)) + self.text_length
        pictures[:, 0] = PICTURE
        texts = text_ids(conditioning["prompt_embeds"].shape[1], pictures)
        return self.through(model, x, sigma, conditioning, img_ids=pictures, txt_ids=texts)

    def longest_conditioning(self, model: Network) -> Conditioning:
        return longest_whole(self.text_length, model.config.joint_attention_dim)

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        return [{"prompt_embeds": text} for text in pipeline.encode_prompt(list(texts))[0]]

    def token_counts(self, pipeline: Any, texts: Sequence[str]) -> list[int]:
        from diffusers.pipelines.longcat_image.pipeline_longcat_image import split_quotation

        # What stands in quotation marks is read letter by letter.
        parts = [
            [part for words, quoted in split_quotation(text) for part in (words if quoted else [words])]
            for text in texts
        ]
        return [
            sum(len(pipeline.tokenizer(part, add_special_tokens=False).input_ids) for part in of_text)
            for of_text in parts
        ]

    def pipeline(self, model: Network, scheduler: Any) -> Any:
        made = super().pipeline(model, scheduler)
        own = made.encode_prompt

        def encode_prompt(
            prompt: Any = None, num_images_per_prompt: int = 1, prompt_embeds: Tensor | None = None
        ) -> Any:
            if prompt_embeds is None:
                return own(prompt, num_images_per_prompt)
            return prompt_embeds, text_ids(prompt_embeds.shape[1], prompt_embeds.new_empty(0, dtype=torch.float32))

        # It counts prompts where it is given their embeddings, and there are none.
        made.encode_prompt = encode_prompt
        return made

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        guided = bool(negative_of(conditioning))
        # It would have a language model write another prompt.
        own = {"enable_prompt_rewrite": False, "guidance_scale": self.guidance if guided else 1.0}
        return {**conditioning, **own}
