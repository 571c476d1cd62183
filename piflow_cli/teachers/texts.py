"""Texts as networks are told them: whole, or with a mask that says which of their embeddings count."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.tensors import to_device
from .base import Conditioning
from .encoders import ATTENTION_MASK, NEGATIVE_PREFIX, lengthened

MASK = "prompt_embeds_mask"
MASKS = (MASK, NEGATIVE_PREFIX + MASK)


def masked(embeds: Tensor) -> dict[str, Tensor]:
    """Embeddings (L, D) of a text as they are, and a mask (L,) that says that all of them count."""
    return {"prompt_embeds": embeds, MASK: torch.ones(embeds.shape[0], dtype=torch.long)}


def texts_of(conditioning: Conditioning) -> list[Tensor]:
    """The texts (L, D) of a masked batch without their padding, whose length is read in host memory."""
    lengths = conditioning[MASK].sum(dim=1).tolist()
    return [text[:length] for text, length in zip(conditioning["prompt_embeds"], lengths)]


def longest_masked(length: int, width: int) -> Conditioning:
    """Shapes of one text of ``length`` embeddings of ``width`` as :func:`masked` has it, in the encoders' bfloat16."""
    return {**longest_whole(length, width), MASK: torch.ones(1, length, dtype=torch.long, device="cpu")}


def attended(embeds: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Those of the embeddings (L, D) of a text that ``mask`` (L,) bool lets count, and a mask of them alone."""
    return {"prompt_embeds": embeds[mask], ATTENTION_MASK: mask[mask]}


def longest_attended(length: int, width: int) -> Conditioning:
    """Shapes of one text of ``length`` embeddings of ``width`` as :func:`attended` has it."""
    return {**longest_whole(length, width), ATTENTION_MASK: torch.ones(1, length, dtype=torch.bool, device="cpu")}


def of_one_length(conditioning: Conditioning) -> Conditioning:
    """Texts and masks (B, L, ...) of both halves, all as long as the longest and where the embeddings are."""
    longest = max(value.shape[1] for value in conditioning.values())
    long = {name: lengthened(value, longest) for name, value in conditioning.items()}
    return to_device(long, conditioning["prompt_embeds"].device)


def longest_whole(*shape: int) -> Conditioning:
    """Shape of the embeddings of one text, ``shape`` without the batch, in the encoders' bfloat16."""
    return {"prompt_embeds": torch.empty(1, *shape, dtype=torch.bfloat16, device="meta")}
