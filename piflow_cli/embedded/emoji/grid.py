"""Stage `grid`: pictures to look at, and how often a caption's own picture is the one that is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...system.files import replacing_file
from ...teachers.base import Network
from .data import SIDE, load_captions, load_pictures, to_unit
from .tokenizers import LENGTH
from .write import DISTILLED, TWO_HALVES, open_pipeline

PROMPTS = (
    "grinning face",
    "smiling face with sunglasses",
    "red heart",
    "flag of japan",
    "flag of france",
    "flag of canada",
    "dog face",
    "an emoji of cat face",
    "green apple",
    "slice of pizza",
    "rocket",
    "rainbow",
    "thumbs up sign, medium skin tone",
    "woman teacher, dark skin tone",
    "soccer ball",
    "clock face three oclock",
)
STEPS = (4, 50)
GUIDANCE = 3.5
COLUMNS = 4
ASKED = 256  # captions of the figures
AT_ONCE = 256


def draw(pipeline: Network, prompts: list[str], steps: int, length: int = LENGTH) -> Tensor:
    """Pictures (N, 3, SIDE, SIDE) in [-1, 1] by the stock pipeline, from one seed; guided in the way of its network."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for start in range(0, len(prompts), AT_ONCE):
        chosen = prompts[start : start + AT_ONCE]
        guidance: dict[str, Any] = {"guidance_scale": GUIDANCE}
        if not pipeline.transformer.config.guidance_embeds:
            guidance = {"negative_prompt": [""] * len(chosen), "true_cfg_scale": GUIDANCE}
        size = {"height": SIDE, "width": SIDE, "num_inference_steps": steps, "max_sequence_length": length}
        drawn.append(pipeline(chosen, **guidance, **size, generator=generator, output_type="pt").images)
    return torch.cat(drawn).float() * 2 - 1


def save_grid(pictures: Tensor, place: Path) -> None:
    """Write pictures (N, 3, SIDE, SIDE) in [-1, 1] as one PNG, twice as large as they are."""
    rows = -(-len(pictures) // COLUMNS)
    cells = np.full((rows * COLUMNS, SIDE, SIDE, 3), 255, np.uint8)
    cells[: len(pictures)] = ((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    whole = cells.reshape(rows, COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2).reshape(rows * SIDE, COLUMNS * SIDE, 3)
    image = Image.fromarray(whole).resize((2 * whole.shape[1], 2 * whole.shape[0]), Image.Resampling.NEAREST)
    with replacing_file(place) as aside:
        image.save(aside, format="PNG")


def own_pictures(drawn: Tensor, asked: Tensor, pictures: Tensor) -> float:
    """The share of ``drawn`` whose nearest of ``pictures`` (N, 3, H, W), by squared error, is the one ``asked`` for."""
    nearest = torch.cdist(drawn.flatten(1), pictures.flatten(1).to(drawn.device)).argmin(1)
    return (nearest.cpu() == asked).float().mean().item()


def make_grids(work: Path, output: Path, device: torch.device, asked: int = ASKED) -> dict[str, Any]:
    """Write grid-NAME-STEPS.png into ``work``, and return the figures."""
    captions, pictures = load_captions(work / "data"), to_unit(load_pictures(work / "data"))
    chosen = torch.linspace(0, len(captions) - 1, min(asked, len(captions))).round().long()
    texts = [captions[number][0] for number in chosen.tolist()]
    figures: dict[str, Any] = {}
    for name in (DISTILLED, TWO_HALVES):
        pipeline = open_pipeline(output, name, device)
        for steps in STEPS:
            save_grid(draw(pipeline, list(PROMPTS), steps), work / f"grid-{name}-{steps}.png")
            figures[f"{name}, {steps} steps: own picture"] = own_pictures(
                draw(pipeline, texts, steps), chosen, pictures
            )
        save_grid(draw(pipeline, list(PROMPTS), 50, length=512), work / f"grid-{name}-50-long.png")
    return figures
