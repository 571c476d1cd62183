"""What both flows learn from: packed latents, captions as token ids, noise levels."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .autoencoder import load_latents
from .data import load_captions, load_shares
from .recipe import FlowRecipe
from .tokenizers import load_tokenizers, token_ids


@dataclass(frozen=True)
class NoisedLatents:
    """Noised latents ``x`` (B, T, C) at ``sigma`` (B,), their velocity ``target``, and the ids of their captions."""

    x: Tensor
    sigma: Tensor
    target: Tensor
    clip_ids: Tensor
    t5_ids: Tensor


@dataclass(frozen=True)
class FlowData:
    """All pictures' latents and captions, on one device.

    mean, std: of the latents (N, T, C). shares: how often each is drawn (N,). clip_ids, t5_ids: (N, wordings, L).
    clip_empty, t5_empty: of no caption, (L,).
    """

    mean: Tensor
    std: Tensor
    shares: Tensor
    clip_ids: Tensor
    t5_ids: Tensor
    clip_empty: Tensor
    t5_empty: Tensor

    @staticmethod
    def load(work: Path, recipe: FlowRecipe, device: torch.device) -> FlowData:
        clip, t5 = load_tokenizers(work / "data")
        captions = load_captions(work / "data")
        texts = ["", *(text for wordings in captions for text in wordings)]
        clip_ids, t5_ids = token_ids(clip, texts), token_ids(t5, texts, recipe.text_length)
        mean, std = load_latents(work)
        parts = (
            mean,
            std,
            load_shares(work / "data"),
            clip_ids[1:].unflatten(0, (len(captions), -1)),
            t5_ids[1:].unflatten(0, (len(captions), -1)),
            clip_ids[0],
            t5_ids[0],
        )
        return FlowData(*(part.to(device) for part in parts))

    def draw(self, recipe: FlowRecipe, iteration: int, generator: torch.Generator) -> NoisedLatents:
        """A batch of pictures with one of their wordings each, or none."""
        padded = is_long(recipe, iteration)
        size = recipe.long_batch_size if padded else recipe.batch_size
        device = self.mean.device
        chosen = torch.multinomial(self.shares, size, replacement=True, generator=generator)
        wording = torch.randint(self.clip_ids.shape[1], (size,), generator=generator, device=device)
        dropped = torch.rand(size, 1, generator=generator, device=device) < recipe.caption_dropout
        t5_ids = torch.where(dropped, self.t5_empty, self.t5_ids[chosen, wording])
        if padded:
            t5_ids = self.lengthened(t5_ids, recipe)
        mean = self.mean[chosen]
        x_0 = mean + self.std[chosen] * torch.randn(mean.shape, generator=generator, device=device)
        noise = torch.randn(mean.shape, generator=generator, device=device)
        sigma = noise_levels(recipe, size, generator)
        return NoisedLatents(
            x=torch.lerp(x_0, noise, sigma[:, None, None]),
            sigma=sigma,
            target=noise - x_0,
            clip_ids=torch.where(dropped, self.clip_empty, self.clip_ids[chosen, wording]),
            t5_ids=t5_ids,
        )

    @staticmethod
    def lengthened(t5_ids: Tensor, recipe: FlowRecipe) -> Tensor:
        """Ids padded to the stock pipeline's default; padding is T5's token 0."""
        return F.pad(t5_ids, (0, recipe.long_length - t5_ids.shape[-1]))

    def empty(self, batch: NoisedLatents) -> tuple[Tensor, Tensor]:
        """Ids of no caption, in the shape of a batch's."""
        padding = batch.t5_ids.shape[-1] - len(self.t5_empty)
        t5_ids = F.pad(self.t5_empty, (0, padding))
        return self.clip_empty.expand_as(batch.clip_ids), t5_ids.expand_as(batch.t5_ids)


def is_long(recipe: FlowRecipe, iteration: int) -> bool:
    return iteration % recipe.long_every == recipe.long_every - 1


def noise_levels(recipe: FlowRecipe, size: int, generator: torch.Generator) -> Tensor:
    """Noise levels (size,) in (0, 1): a share of uniform ones, the others logit-normal and shifted (arXiv 2403.03206).

    Both are drawn in even strata, which leaves their densities as they are and takes noise from the loss.
    """
    uniform = round(recipe.uniform_times * size)
    device = generator.device
    parts = [
        (torch.arange(count, device=device) + torch.rand(count, generator=generator, device=device)) / count
        for count in (uniform, size - uniform)
        if count
    ]
    if uniform < size:
        even = parts.pop().clamp(1e-6, 1 - 1e-6)
        sigma = torch.special.ndtri(even).sigmoid()
        parts.append(recipe.shift * sigma / (1 + (recipe.shift - 1) * sigma))
    return torch.cat(parts)


def compile_blocks(transformer: Any) -> None:
    """Compile the blocks of a transformer for the usual shapes; the weights and their names stay."""
    transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)


def stance(recipe: FlowRecipe, iteration: int) -> contextlib.AbstractContextManager[Any]:
    """Batches of long texts run uncompiled: compiling for them would take longer than they do."""
    return torch.compiler.set_stance("force_eager") if is_long(recipe, iteration) else contextlib.nullcontext()
