"""Qwen-Image-Edit, 2509 and 2511: Qwen-Image that is shown a picture, and so is its text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from .base import Conditioning, Network
from .encoders import REFERENCE
from .packing import pack
from .qwen import QwenImageFamily
from .shown import handed, named_image
from .texts import masked


class QwenImageEditFamily(QwenImageFamily):
    """Conditioning: that of Qwen-Image, and ``reference_latents`` (B, C, h, w), without noise.

    The text comes from an encoder that has seen the picture, on an area of its own. Networks of 2511 see tokens of the
    reference at noise level 0 (``zero_cond_t``): they embed two times for each sample, and hand the head the first.
    """

    name = "qwen-image-edit"
    pipeline_name = "QwenImageEditPlusPipeline"
    # With the tokens of the picture; its stock pipeline allows no more.
    text_length = 1024
    sees = True
    one_at_a_time = True

    def shapes(self, x: Tensor, conditioning: Conditioning) -> list[tuple[int, int, int]]:
        return [*super().shapes(x, conditioning), *super().shapes(conditioning[REFERENCE], conditioning)]

    def reference_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return _stock().calculate_dimensions(_stock().VAE_IMAGE_SIZE, size[0] / size[1])

    def pipeline(self, model: Network, scheduler: Any) -> Any:
        kind = handed(self.pipeline_class, _HandedQwen)
        parts = dict.fromkeys(self.pipeline_class._get_signature_keys(self.pipeline_class)[0])
        return kind(**{**parts, self.component: model, "scheduler": scheduler})

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        return named_image(super().pipeline_inputs(conditioning))

    def encode_prompts(
        self, pipeline: Any, texts: Sequence[str], pictures: Sequence[Image.Image] = ()
    ) -> list[dict[str, Tensor]]:
        found = (
            pipeline.encode_prompt(text, image=[_seen(pipeline, picture)])[0][0]
            for text, picture in zip(texts, pictures, strict=True)
        )
        return [masked(embeds[: self.text_length]) for embeds in found]

    def token_counts(self, pipeline: Any, texts: Sequence[str], pictures: Sequence[Image.Image] = ()) -> list[int]:
        # As the stock pipeline has it for one picture.
        prompt = "Picture 1: <|vision_start|><|image_pad|><|vision_end|>"
        whole = [pipeline.prompt_template_encode.format(prompt + text) for text in texts]
        counts = (
            len(pipeline.processor(text=[text], images=[_seen(pipeline, picture)]).input_ids[0])
            for text, picture in zip(whole, pictures, strict=True)
        )
        return [count - pipeline.prompt_template_encode_start_idx for count in counts]


def _seen(pipeline: Any, picture: Image.Image) -> Image.Image:
    """``picture`` as the text encoder is shown it."""
    width, height = _stock().calculate_dimensions(_stock().CONDITION_IMAGE_SIZE, picture.width / picture.height)
    return pipeline.image_processor.resize(picture, height, width)


def _stock() -> Any:
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus

    return pipeline_qwenimage_edit_plus


class _HandedQwen:
    """A stock pipeline that takes latents (1, C, h, w) in the place of the picture that they are encoded from."""

    def __call__(self, *, image: Tensor, height: int, width: int, **told: Any) -> Any:
        self._shown = image
        stock: Any = super()
        # By its shape the pipeline knows the positions of the latents.
        return stock.__call__(image=Image.new("RGB", (width, height)), height=height, width=width, **told)

    def prepare_latents(self, images: list[Tensor], *given: Any) -> tuple[Tensor, Tensor]:
        stock: Any = super()
        latents, _ = stock.prepare_latents(None, *given)
        return latents, pack(self._shown.to(latents))
