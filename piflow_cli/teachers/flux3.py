"""FLUX.3 [klein] base: latents of FLUX.2's VAE, texts in windows of 80 tokens, two halves, a modular pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .base import Conditioning, Network, matching
from .encoders import negative_of
from .flux2 import Flux2VaeFamily, grid_ids
from .loading import load_text_encoder
from .modular import as_whole
from .packing import unpack
from .text_parts import no_text_encoder
from .texts import MASK, MASKS, longest_masked, masked

# Rows and columns are half as far apart as tokens of a text.
BETWEEN_CELLS = 0.5
WINDOW = 80


class Flux3KleinFamily(Flux2VaeFamily):
    """Conditioning: ``prompt_embeds`` (B, L, D) and ``prompt_embeds_mask`` (B, L), zero beyond the window of a text.

    The pipeline pads a text to a multiple of 80 tokens, and the network, which knows no mask, sees that padding. So a
    window is part of what it is told, and it is asked about one sample a call. ``D`` is eight layers of the text
    encoder side by side. The pipeline's prompt upsampler is not asked.
    """

    name = "flux3-klein"
    model_name = "Flux3Transformer2DModel"
    pipeline_name = "Flux3ModularPipeline"
    modular_blocks = "Flux3AutoBlocks"
    left_out = ("prompt_upsampler",)
    text_length = 12 * WINDOW
    one_at_a_time = True
    read_on_host = MASKS
    config_not_published = ()

    def adapter_targets(self, model: Network) -> list[str]:
        # Blocks of reference pictures are not run, and what is not run learns nothing.
        own = r"(mode_blocks\.image|txt_mode_blocks|single_transformer_blocks)\.\d+\.ff\.linear_(in|out)"
        return matching(model, rf"{own}|timestep_embedder\.linear_[12]")

    def _config(self, folder: Path) -> dict:
        config = super()._config(folder)
        if config.get("flow_map"):
            raise UsageError(
                f"the {self.model_name} in {folder} is a flow map, distilled in steps already: it predicts no velocity",
                "name the base that it was made of: --base black-forest-labs/flux-3-image-klein-base",
            )
        return config

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        windows = [int(length) for length in conditioning[MASK].sum(dim=1)]
        # Row by row even where windows are alike: processes that share the weights out must ask equally often.
        return torch.cat(
            [
                self._told(model, state, level, text[:, :window])
                for state, level, text, window in zip(
                    x.split(1), sigma.split(1), conditioning["prompt_embeds"].split(1), windows, strict=True
                )
            ]
        )

    def _told(self, model: Network, x: Tensor, sigma: Tensor, embeds: Tensor) -> Tensor:
        """The output at states of texts ``embeds`` (B, L, D), whose windows are L tokens long."""
        cells = grid_ids(x).float()
        cells[:, 1:3] *= BETWEEN_CELLS
        words = cells.new_zeros(embeds.shape[1], cells.shape[1])
        words[:, 3] = torch.arange(embeds.shape[1], device=x.device)
        return self.through(model, x, sigma, {"prompt_embeds": embeds}, img_ids=cells, txt_ids=words)

    def longest_conditioning(self, model: Network) -> Conditioning:
        return longest_masked(self.text_length, model.config.joint_attention_dim)

    def pipeline(self, model: Network, scheduler: Any) -> Any:
        made = as_whole(self.pipeline_class, _blocks()["denoise"].sub_blocks["text2image"], "latents")
        made.register_components(scheduler=scheduler, **self.parts(model))
        return made

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        negative = negative_of(conditioning)
        halves = {"negative_prompt_embeds": _window(negative)} if negative else {}
        return {
            "prompt_embeds": _window(conditioning),
            **halves,
            "guidance_scale": self.guidance if negative else 1.0,
        }

    def from_pipeline(self, latents: Tensor, rows: int, columns: int) -> Tensor:
        return unpack(latents.flatten(2).transpose(1, 2), rows, columns)

    def encode_prompts(self, pipeline: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        found = (pipeline(prompt=text, max_sequence_length=self.text_length)[0] for text in texts)
        return [masked(embeds[0]) for embeds in found]

    def token_counts(self, pipeline: Any, texts: Sequence[str]) -> list[int]:
        chats = ([{"role": "user", "content": text}] for text in texts)
        options = {"tokenize": False, "add_generation_prompt": True}
        whole = [pipeline.tokenizer.apply_chat_template(chat, **options) for chat in chats]
        return [len(pipeline.tokenizer.tokenizer(text).input_ids) for text in whole]

    def text_pipeline(self, folder: Path) -> Any:
        pipeline = as_whole(self.pipeline_class, _blocks()["text_encoder"], "prompt_embeds")
        if missing := [name for name in pipeline.component_names if not (folder / name).is_dir()]:
            raise no_text_encoder(folder, missing)
        kinds = {name: pipeline.get_component_spec(name).type_hint for name in pipeline.component_names}
        pipeline.register_components(
            text_encoder=load_text_encoder(kinds["text_encoder"], folder / "text_encoder", torch.bfloat16),
            tokenizer=kinds["tokenizer"].from_pretrained(folder / "tokenizer"),
        )
        return pipeline


def _window(told: Conditioning) -> Tensor:
    """The embeddings (B, L, D) of texts of one window, without what a batch added."""
    return told["prompt_embeds"][:, : int(told[MASK].sum(dim=1).max())]


def _blocks() -> Any:
    """The steps of the stock pipeline, by name."""
    import diffusers

    # To a type checker it may be the placeholder that stands in where transformers is missing.
    stock: Any = diffusers
    return stock.Flux3AutoBlocks().sub_blocks
