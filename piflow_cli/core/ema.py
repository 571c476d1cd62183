"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def karras_decay(iteration: int, gamma: float = 7.0) -> float:
    """Decay (1 - 1/(it + 1))^(gamma + 1) of the power-function average (Karras et al., arXiv 2312.02696, eq. 1).

    ``iteration`` counts updates from 0, where the decay is 0: the average starts as a copy. Training counts from the
    end of its warm-up, as the published configurations do.
    """
    return (1 - 1 / (iteration + 1)) ** (gamma + 1)


@torch.no_grad()
def update_average(average: Iterable[Tensor], current: Iterable[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * current, in place and pairwise."""
    means = list(average)
    values = [value.to(mean) for mean, value in zip(means, current, strict=True)]
    get_ema_multi_avg_fn(decay)(means, values, None)
