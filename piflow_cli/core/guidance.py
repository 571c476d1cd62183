"""Classifier-free guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .tensors import per_sample


@dataclass(frozen=True)
class Renormalisation:
    """Tokens of a guided velocity get back the length that they have in the conditional one.

    ``side``: positions of a token each way. ``most``: the most that a token may grow by; 1 lets it shrink alone.
    """

    side: int = 1
    most: float = math.inf

    def __call__(self, guided: Tensor, conditional: Tensor) -> Tensor:
        """``guided`` (B, C, H, W), its tokens as long as those of ``conditional``."""
        ratio = self._lengths(conditional) / self._lengths(guided).clamp(min=1e-8)
        return guided * ratio.clamp(max=self.most)

    def _lengths(self, velocity: Tensor) -> Tensor:
        """Norms (B, 1, H, W) of the token that each position is of."""
        squares = velocity.square().sum(dim=1, keepdim=True)
        for axis in (2, 3):
            cells = squares.unflatten(axis, (-1, self.side)).sum(dim=axis + 1)
            squares = cells.repeat_interleave(self.side, dim=axis)
        return squares.sqrt()


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598) of strength ``scale``; 1 is none.

    It holds for sigma inside ``interval`` (Kynkaanniemi et al., arXiv 2404.07724). ``orthogonal`` takes away the part
    of the guiding term that lies along the conditional x_0, sample by sample (as in APG, arXiv 2410.02416).
    ``renormalised``: how the stock pipelines of some models give the guided velocity its length; None: not at all.
    ``below``: a noise level, and the strength there and below, where another network takes over; None: the same.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    orthogonal: bool = False
    renormalised: Renormalisation | None = None
    below: tuple[float, float] | None = None

    def acts(self, sigma: Tensor) -> Tensor:
        """Whether noise levels, of any shape, are inside the interval, bool; its ends are."""
        return (sigma >= self.interval[0]) & (sigma <= self.interval[1])

    def __call__(self, conditional: Tensor, unconditional: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Guided velocity (B, C, *S) from both velocities at states ``x`` and noise levels ``sigma`` (B,)."""
        bias = self._excess(sigma, x) * (conditional - unconditional)
        if self.orthogonal:
            x_0 = x - per_sample(sigma, x) * conditional
            axes = tuple(range(1, x.ndim))
            bias = bias - (bias * x_0).sum(axes, keepdim=True) / x_0.square().sum(axes, keepdim=True) * x_0
        guided = conditional + bias
        if self.renormalised is not None:
            guided = self.renormalised(guided, conditional)
        inside = self.acts(sigma).reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(inside, guided, conditional)

    def _excess(self, sigma: Tensor, x: Tensor) -> Any:
        """The strength less 1: a number, or (B, 1, ...) where it depends on the noise levels (B,)."""
        if self.below is None:
            return self.scale - 1
        level, scale = self.below
        return per_sample(torch.where(sigma <= level, scale - 1, self.scale - 1), x)
