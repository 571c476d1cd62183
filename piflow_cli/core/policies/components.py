"""What policies of several weighted velocities share: the weights over components, and dropping some of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..tensors import working
from ..validation import check_not_empty, check_positive, check_shape
from .base import Policy

if TYPE_CHECKING:
    from typing_extensions import Self


class ComponentPolicy(Policy):
    """A policy of K components: velocities ``means`` (B, K, C, *S) and ``logweights`` (B, K, 1, *S) before the softmax over K,
    as the network gives them; ``dropped`` (B, K) bool marks components that are left out.
    """

    means: Tensor
    logweights: Tensor
    dropped: Tensor | None

    def with_dropout(self, probability: float, generator: torch.Generator | None = None) -> Self:
        """Drop whole components, each with ``probability``, the same ones at all positions of a sample.

        Where all components of a sample would fall, all stay (arXiv 2510.14974, GM dropout).
        """
        if probability == 0:
            return self
        draw = torch.rand(self.means.shape[:2], generator=generator) < probability
        draw &= ~draw.all(dim=1, keepdim=True)
        return replace(self, dropped=draw.to(self.means.device))

    def kept_logweights(self) -> Tensor:
        """The log-weights (B, K, 1, *S), minus infinity where a component is dropped."""
        logweights = working(self.logweights)
        if self.dropped is None:
            return logweights
        return logweights.masked_fill(self.dropped.reshape(*self.dropped.shape, *[1] * (logweights.ndim - 2)), -torch.inf)

    def _check_components(self) -> None:
        check_not_empty("means", self.means, 3)
        batch, components, *rest = self.means.shape
        check_shape("x_src", self.x_src, (batch, *rest))
        check_shape("logweights", self.logweights, (batch, components, 1, *rest[1:]))
        check_shape("raw_src", self.raw_src, (batch,))
        if self.dropped is not None:
            check_shape("dropped", self.dropped, (batch, components))
        check_positive("shift", self.shift)
