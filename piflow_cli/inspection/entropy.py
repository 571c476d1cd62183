"""Entropy of weights: how many components count."""

from __future__ import annotations

import torch
from torch import Tensor

DEAD_WEIGHT = 0.01
QUANTILES = (0.1, 0.5, 0.9)


def entropy(weights: Tensor, dim: int) -> Tensor:
    """-sum w ln w in nats; a weight of zero adds nothing."""
    return torch.special.entr(weights).sum(dim=dim)


def overall_effective(usage: Tensor) -> float:
    """exp of the entropy of the weights (B, K) averaged over samples: the number of components used at all."""
    return entropy(usage.mean(dim=0), 0).exp().item()


def dead_components(highest: Tensor) -> list[int]:
    """Components whose largest weight (B, K) is below DEAD_WEIGHT in every sample, hence at every position."""
    return [index for index, weight in enumerate(highest.amax(dim=0).tolist()) if weight < DEAD_WEIGHT]


def quantiles(values: Tensor, start: int = 1) -> Tensor:
    """The tenth, half and nine tenths (..., 3) of ``values``, over all axes from ``start`` on."""
    levels = torch.tensor(QUANTILES, dtype=values.dtype, device=values.device)
    return values.flatten(start).quantile(levels, dim=start).movedim(0, start)
