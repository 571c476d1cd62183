"""What text-to-video families have besides: frames, which share latent positions, and the rate of showing them."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ..presets.families import family_kind
from .text_to_image import TextToImageFamily


class TextToVideoFamily(TextToImageFamily):
    """A family whose latents are (B, C, F, H, W), and whose videos are (B, 3, frames, H, W).

    The first frame has a latent position of its own, and ``frame_step`` of those that follow share one. ``frame_rate``:
    frames a second of the videos that it was trained on. ``pipeline_factors``: what its stock pipeline calls the pixels
    that a latent position spans each way, and the frames.
    """

    frame_rate: ClassVar[int | None]
    pipeline_factors: ClassVar[tuple[str, str]] = ("vae_scale_factor_spatial", "vae_scale_factor_temporal")

    @property
    def frame_step(self) -> int:
        """Frames that share a latent position, as the family's row says before its class is imported."""
        step = family_kind(self.name).frame_step
        assert step is not None, "a family of videos has a row with a frame step"
        return step

    def pipeline_size(self, pipeline: Any, x: Tensor) -> dict[str, int]:
        frames, rows, columns = x.shape[-3:]
        factor, step = (getattr(pipeline, name) for name in self.pipeline_factors)
        return {"height": rows * factor, "width": columns * factor, "num_frames": (frames - 1) * step + 1}

    def saved(self, call: str, name: str) -> tuple[str, str]:
        told = f'{call.removesuffix(")")}, output_type="pil").frames[0]'
        ending = f'export_to_gif({told}, "{name}.gif", fps={self.frame_rate})'
        return "from diffusers.utils import export_to_gif\n", ending
