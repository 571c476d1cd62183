"""Stage `teacher`: flow matching with captions dropped at random, transformer and text encoders jointly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .flow import FlowData, compile_blocks, stance
from .loop import Limits, Run, average_of
from .network import TextEncoders, TextToImage, block_matrices, new_transformer, velocity
from .recipe import Recipe
from .text import trained_encoders
from .tokenizers import load_tokenizers

CHECKPOINT = "teacher.pt"


def new_teacher(work: Path, recipe: Recipe) -> TextToImage:
    """The teacher of two halves: the text encoders as stage `text` left them, and a transformer of random weights."""
    torch.manual_seed(recipe.teacher.seed)
    text = TextEncoders(recipe.teacher, *load_tokenizers(work / "data"))
    text.load_state_dict(trained_encoders(work))
    return TextToImage(text, new_transformer(recipe.teacher, recipe.autoencoder.latent_channels, guidance_embeds=False))


def load_teacher(work: Path, recipe: Recipe) -> TextToImage:
    """The trained teacher, its weights as shipped."""
    model = new_teacher(work, recipe)
    model.load_state_dict(average_of(work / CHECKPOINT))
    return model.eval().requires_grad_(False)


def train_teacher(
    work: Path, recipe: Recipe, limits: Limits, device: torch.device, compiled: bool = False
) -> dict[str, Any]:
    """Train to predict |u - (eps - x_0)|^2 (Lipman et al., arXiv 2210.02747), and return the figures.

    Captions are dropped, so that the network also gives the unconditional velocity that guidance needs (Ho and
    Salimans, arXiv 2207.12598).
    """
    data = FlowData.load(work, recipe.teacher, device)
    model = new_teacher(work, recipe).to(device)
    matrices = block_matrices(model.transformer) if recipe.teacher.muon else []
    run = Run("teacher", model, recipe.teacher, work / CHECKPOINT, limits, matrices)
    if compiled:
        compile_blocks(run.model.transformer)

    def loss_of(model: Any, iteration: int, generator: torch.Generator) -> Tensor:
        batch = data.draw(recipe.teacher, iteration, generator)
        with stance(recipe.teacher, iteration):
            text = model.text(batch.clip_ids, batch.t5_ids)
            predicted = velocity(model.transformer, batch.x, batch.sigma, text)
        return F.mse_loss(predicted, batch.target)

    run.train(loss_of)
    return run.facts()
