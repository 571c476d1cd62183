"""What policies of several weighted velocities share: weights, dropout of components, and their head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..heads import HeadSite, HeadSizes, PolicyHead, Projection, like, outputs_of
from ..tensors import working
from ..validation import check_not_empty, check_positive, check_shape
from .base import Policy

if TYPE_CHECKING:
    from typing_extensions import Self

BIAS_NOISE = 0.05
BIAS_NOISE_ALONE = 0.1  # of projections without a bias, as those of FLUX.2


class ComponentPolicy(Policy):
    """A policy of K components with weights.

    Velocities ``means`` (B, K, C, *S) and ``logweights`` (B, K, 1, *S) before the softmax over K are as the network
    gives them; ``dropped`` (B, K) bool marks components that are left out.
    """

    means: Tensor
    logweights: Tensor
    dropped: Tensor | None

    def without(self, dropped: Tensor | None) -> Self:
        """Leave out whole components, the same ones at all positions of a sample."""
        return replace(self, dropped=dropped)

    def kept_logweights(self) -> Tensor:
        """The log-weights (B, K, 1, *S), minus infinity where a component is dropped."""
        logweights = working(self.logweights)
        if self.dropped is None:
            return logweights
        return logweights.masked_fill(
            self.dropped.reshape(*self.dropped.shape, *[1] * (logweights.ndim - 2)), -torch.inf
        )

    def _check_components(self) -> None:
        check_not_empty("means", self.means, 3)
        batch, components, *rest = self.means.shape
        check_shape("x_src", self.x_src, (batch, *rest))
        check_shape("logweights", self.logweights, (batch, components, 1, *rest[1:]))
        check_shape("raw_src", self.raw_src, (batch,))
        if self.dropped is not None:
            check_shape("dropped", self.dropped, (batch, components))
        check_positive("shift", self.shift)


class ComponentHead(PolicyHead):
    """What heads of K components share: K velocities per position, and K log-weights.

    Tokens (B, tokens, D) → (B, tokens, width) in the order that :class:`~piflow_cli.core.decoding.PolicyDecoder` reads.
    Velocities start as K copies of ``projection`` with noise of ``bias_noise`` on each (component, channel) bias,
    log-weights at zero (pi-Flow, arXiv 2510.14974, appendix). In the published configurations the noise is 0.05 on a
    bias that is there, and 0.1 in place of one that is not; it is that of velocities, ``gain`` times predictions.
    """

    layers: ClassVar[tuple[str, ...]] = ("means", "logweights")

    def __init__(
        self,
        projection: Projection,
        components: int,
        patch: int,
        channel_major: bool,
        *,
        negated: bool = False,
        gain: float = 1.0,
        bias_noise: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(patch, channel_major)
        channels = outputs_of(projection) // patch
        self.sign = -1.0 if negated else 1.0
        self.means = self._widened(projection, components, bias=True)
        self.logweights = like(projection, components * patch)
        if bias_noise is None:
            bias_noise = BIAS_NOISE_ALONE if projection.bias is None else BIAS_NOISE
        noise = bias_noise / gain * torch.randn(components, channels, generator=generator)
        with torch.no_grad():
            if channel_major:
                self.means.bias.unflatten(0, (components, channels, patch)).add_(noise.unsqueeze(-1))
            else:
                self.means.bias.unflatten(0, (patch, components, channels)).add_(noise)
            nn.init.zeros_(self.logweights.weight)
            nn.init.zeros_(self.logweights.bias)

    @classmethod
    def options(cls, site: HeadSite, sizes: HeadSizes, noise: Mapping[str, Any]) -> dict[str, Any]:
        return {"negated": site.negated, "gain": site.gain, **noise}

    @property
    def width(self) -> int:
        return outputs_of(self.means) + outputs_of(self.logweights)
