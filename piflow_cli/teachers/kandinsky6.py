"""Kandinsky 6 without its sound: a network with channels last, Qwen2.5-VL's text under a mask and one vector of CLIP.

Its network makes sound beside a video where it is told the sound's latents, and the video alone where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.heads import HeadSite
from ..core.parameterisations.base import TIMESTEPS
from ..core.tensors import to_device
from ..errors import UsageError
from .base import Conditioning, Network, matching
from .encoders import ATTENTION_MASK, ATTENTION_MASKS, EMPTY, negative_of
from .text_to_video import TextToVideoFamily
from .texts import attended, longest_attended

TEMPLATE_LENGTH = 129  # tokens of the instruction before a prompt, which the stock pipeline drops by their number
TIME_EMBEDDER = r"video_time_embeddings\.timestep_embedder\.linear_[12]"


class Kandinsky6Family(TextToVideoFamily):
    """Conditioning: ``prompt_embeds`` (B, L, D) of Qwen2.5-VL, ``prompt_attention_mask`` (B, L), False at no token.

    And ``pooled_prompt_embeds`` (B, E) of CLIP. The stock pipeline takes embeddings without a mask, and so one text at
    a time. The other half of guidance is told the negative prompt that this pipeline has where it is given none: that
    is what the empty prompt stands for.
    """

    name = "kandinsky6"
    model_name = "Kandinsky6Transformer3DModel"
    pipeline_name = "Kandinsky6TI2VAPipeline"
    vae_name = "AutoencoderKLHunyuanVideo"
    left_out = ("audio_vae", "vocoder")
    one_at_a_time = True
    token_positions = 1
    text_length = 1024
    frame_rate = 24
    read_on_host = ATTENTION_MASKS
    input_field, output_field = "in_visual_dim", "out_visual_dim"
    unread_fields = ("is_multimodal", "magcache")

    def _config(self, folder: Path) -> dict:
        config = super()._config(folder)
        taken, given = config[self.input_field], config[self.output_field]
        if taken != given:
            raise UsageError(
                f"the {self.model_name} in {folder} gives {given} channels for {taken}: it is a student, no teacher",
                "choose its teacher as the base, or sample from it as from any student",
            )
        if not config["visual_cond"]:
            raise UsageError(
                f"the {self.model_name} in {folder} has no input for a first frame, which those of the family"
                f" {self.name} have",
                "choose another base",
            )
        return config

    def head_site(self, model: Network) -> HeadSite:
        patch = prod(model.config.patch_size)
        return HeadSite(
            "out_layer.out_layer", patch, channel_major=True, tap="out_layer", tap_at="input", tap_key=1, folds=True
        )

    def embedding_dim(self, model: Network) -> int:
        return model.config.time_dim

    def adapter_targets(self, model: Network) -> list[str]:
        # The layers of sound are not reached.
        blocks = r"video_text_transformer_blocks\.\d+|visual_transformer_blocks\.\d+\.video_dec_block"
        return matching(model, rf"({blocks})\.feed_forward\.net\.(0\.proj|2)|{TIME_EMBEDDER}")

    def kept_whole(self, model: Network) -> set[str]:
        # What they are told is cast to the dtype of their weights, which is no number format where they are quantised.
        return {*super().kept_whole(model), *matching(model, r".*modulation\.out_layer|.*_time_embeddings\..*")}

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        mask, latents = conditioning[ATTENTION_MASK], x.movedim(1, -1)
        # The latents of a first frame, and where it is: there is none.
        shown = latents.new_zeros(*latents.shape[:-1], latents.shape[-1] + 1)
        output = model(
            hidden_states=torch.cat([latents, shown], dim=-1),
            encoder_hidden_states=conditioning["prompt_embeds"],
            pooled_projections=conditioning["pooled_prompt_embeds"],
            # In full precision, as its pipeline tells it.
            timestep=TIMESTEPS * sigma.float(),
            encoder_attention_mask=None if mask.all() else to_device(mask, x.device),
            return_dict=False,
        )[0]
        return output.movedim(-1, 1)

    def to_pipeline(self, x: Tensor) -> Tensor:
        # It moves the channels itself; its scheduler sees them last.
        return x

    def from_pipeline(self, latents: Tensor, rows: int, columns: int) -> Tensor:
        return latents

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        told = {name: value for name, value in conditioning.items() if name not in ATTENTION_MASKS}
        for name in conditioning.keys() & ATTENTION_MASKS:
            text = name.replace(ATTENTION_MASK, "prompt_embeds")
            told[text] = told[text][:, : int(conditioning[name].sum(dim=1).max())]
        guidance = self.guidance if negative_of(conditioning) else 1.0
        return {**told, "guidance_scale": guidance, "sample_audio": False}

    def saved(self, call: str, name: str) -> tuple[str, str]:
        return super().saved(f"{call.removesuffix(')')}, sample_audio=False)", name)

    def longest_conditioning(self, model: Network) -> Conditioning:
        longest = longest_attended(self.text_length, model.config.in_text_dim)
        return {**longest, "pooled_prompt_embeds": longest["prompt_embeds"].new_empty(1, model.config.in_text_dim2)}

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        return [self._encoded(pipeline, pipeline._DEFAULT_NEGATIVE_PROMPT if text == EMPTY else text) for text in texts]

    def _encoded(self, pipeline: Any, text: str) -> dict[str, Tensor]:
        embeds, pooled, mask, *_ = pipeline.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=self.text_length
        )
        # It leaves out a mask that masks nothing.
        counts = embeds.new_ones(embeds.shape[1], dtype=torch.bool) if mask is None else mask[0]
        return {**attended(embeds[0], counts), "pooled_prompt_embeds": pooled[0]}

    def token_counts(self, pipeline: Any, texts: Sequence[str]) -> list[int]:
        from diffusers.pipelines.kandinsky6.pipeline_kandinsky6_ti2va import _PROMPT_TEMPLATE

        # CLIP reads the first 77 tokens, and does not count.
        whole = (pipeline.tokenizer(text=[_PROMPT_TEMPLATE.format(text)]).input_ids[0] for text in texts)
        return [len(tokens) - TEMPLATE_LENGTH for tokens in whole]

    def latent_statistics(self, vae: Network, latents: Tensor) -> tuple[Tensor, Tensor]:
        return latents.new_zeros(()), latents.new_tensor(1 / vae.config.scaling_factor)
