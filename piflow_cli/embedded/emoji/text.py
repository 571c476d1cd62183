"""Stage `text`: the text encoders learn what a caption's picture looks like, before they condition anything.

As CLIP is fitted to pictures before FLUX reads it. Both encoders predict the latents of the caption's picture through
readouts that are thrown away; what one caption says is then found with one look, and the flow has only to draw it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .flow import FlowData
from .loop import Limits, Run, read_checkpoint
from .network import TextEncoders
from .recipe import Recipe, TextRecipe
from .tokenizers import load_tokenizers

CHECKPOINT = "text.pt"


class Readout(nn.Module):
    """Predicts packed latents (B, positions, channels) twice: from CLIP's vector, and from T5's tokens."""

    def __init__(self, recipe: TextRecipe, text_width: int, positions: int, channels: int) -> None:
        super().__init__()
        width = recipe.readout_width
        self.positions = nn.Parameter(torch.randn(positions, width))
        self.tokens = nn.Linear(text_width, width)
        self.attention = nn.MultiheadAttention(width, recipe.readout_heads, batch_first=True)
        self.of_tokens = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, channels)
        )
        self.of_vector = nn.Sequential(
            nn.Linear(text_width, 4 * width), nn.GELU(), nn.Linear(4 * width, positions * channels)
        )

    def forward(self, tokens: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        keys = self.tokens(tokens)
        asked = self.positions.expand(len(tokens), -1, -1)
        read = asked + self.attention(asked, keys, keys, need_weights=False)[0]
        return self.of_tokens(read), self.of_vector(vector).unflatten(-1, (len(self.positions), -1))


class ReadText(nn.Module):
    """The text encoders and their readouts."""

    def __init__(self, text: TextEncoders, readout: Readout) -> None:
        super().__init__()
        self.text = text
        self.readout = readout


def train_text(work: Path, recipe: Recipe, limits: Limits, device: torch.device) -> dict[str, Any]:
    """Train by squared error to the means of the posteriors, every name equally often, and return the figures."""
    data = FlowData.load(work, recipe.teacher, device)
    torch.manual_seed(recipe.text.seed)
    text = TextEncoders(recipe.teacher, *load_tokenizers(work / "data"))
    readout = Readout(recipe.text, recipe.teacher.text_width, *data.mean.shape[1:])
    run = Run("text", ReadText(text, readout).to(device), recipe.text, work / CHECKPOINT, limits)

    def loss_of(model: Any, iteration: int, generator: torch.Generator) -> Tensor:
        size = recipe.text.batch_size
        chosen = torch.multinomial(data.shares, size, replacement=True, generator=generator)
        wording = torch.randint(data.clip_ids.shape[1], (size,), generator=generator, device=device)
        tokens, vector = model.text(data.clip_ids[chosen, wording], data.t5_ids[chosen, wording])
        predictions = model.readout(tokens, vector)
        return torch.stack([F.mse_loss(predicted.float(), data.mean[chosen]) for predicted in predictions]).sum()

    run.train(loss_of)
    return run.facts()


def trained_encoders(work: Path) -> dict[str, Tensor]:
    """The averaged weights of the text encoders alone, float32."""
    average = read_checkpoint(work / CHECKPOINT)["ema"]
    return {name.removeprefix("text."): value for name, value in average.items() if name.startswith("text.")}
