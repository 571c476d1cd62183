"""Stage `guidance`: classifier-free guidance distilled into the network's guidance input, as FLUX.1-dev has it.

The student starts as the teacher, and learns v_uncond + w (v_cond - v_uncond) for random w (Meng et al., arXiv
2210.03142). The text encoders stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...teachers.base import Network
from .flow import FlowData, NoisedLatents, compile_blocks, stance
from .loop import Limits, Run, average_of
from .network import TextToImage, block_matrices, new_transformer, velocity
from .recipe import GuidanceRecipe, Recipe
from .teacher import load_teacher

CHECKPOINT = "guidance.pt"


def new_student(teacher: TextToImage, recipe: Recipe) -> Network:
    """A transformer with a guidance input that has no effect yet."""
    torch.manual_seed(recipe.guidance.seed)
    student = new_transformer(recipe.teacher, recipe.autoencoder.latent_channels, guidance_embeds=True)
    student.load_state_dict({**student.state_dict(), **teacher.transformer.state_dict()})
    return student


def load_student(work: Path, recipe: Recipe) -> Network:
    """The trained student, its weights as shipped."""
    student = new_transformer(recipe.teacher, recipe.autoencoder.latent_channels, guidance_embeds=True)
    student.load_state_dict(average_of(work / CHECKPOINT))
    return student.eval().requires_grad_(False)


@torch.no_grad()
def guided(teacher: Network, batch: NoisedLatents, both: tuple[Tensor, Tensor], scale: Tensor) -> Tensor:
    """The teacher's velocity under guidance ``scale`` (B,), by ``both`` texts: captions' half first, then none's."""
    conditional, unconditional = velocity(teacher, batch.x.repeat(2, 1, 1), batch.sigma.repeat(2), both).chunk(2)
    return unconditional + scale[:, None, None] * (conditional - unconditional)


def scales(recipe: GuidanceRecipe, size: int, generator: torch.Generator) -> Tensor:
    """Guidance scales (size,), uniform."""
    drawn = torch.rand(size, generator=generator, device=generator.device)
    return recipe.lowest + (recipe.highest - recipe.lowest) * drawn


def train_guidance(
    work: Path, recipe: Recipe, limits: Limits, device: torch.device, compiled: bool = False
) -> dict[str, Any]:
    """Train the student, and return the figures."""
    data = FlowData.load(work, recipe.guidance, device)
    teacher = load_teacher(work, recipe).to(device)
    student = new_student(teacher, recipe).to(device)
    matrices = block_matrices(student) if recipe.guidance.muon else []
    run = Run("guidance", student, recipe.guidance, work / CHECKPOINT, limits, matrices)
    if compiled:
        compile_blocks(teacher.transformer)
        compile_blocks(run.model)

    def loss_of(student: Any, iteration: int, generator: torch.Generator) -> Tensor:
        batch = data.draw(recipe.guidance, iteration, generator)
        scale = scales(recipe.guidance, len(batch.x), generator)
        with stance(recipe.guidance, iteration):
            with torch.no_grad():
                ids = [torch.cat(pair) for pair in zip((batch.clip_ids, batch.t5_ids), data.empty(batch))]
                both = teacher.text(*ids)
                target = guided(teacher.transformer, batch, both, scale)
            text = both[0][: len(scale)], both[1][: len(scale)]
            predicted = velocity(student, batch.x, batch.sigma, text, scale)
        return F.mse_loss(predicted, target)

    run.train(loss_of)
    return run.facts()
