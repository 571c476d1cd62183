"""Momentum: velocities that grow or decay exponentially in sigma, whatever the state (ArcFlow, arXiv 2602.09014)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..heads import Projection, like, outputs_of
from ..tensors import per_sample, working
from ..timegrid import to_sigma
from ..validation import check_shape
from .components import ComponentHead, ComponentPolicy
from .kinds import PolicyKind, PublishedNames, Words

# Below it expm1(z) / z has no accurate derivative in float32; the series has, to float64's precision with so many
# terms.
SERIES_BELOW = 0.25
SERIES_TERMS = 12
INITIAL_GAMMAS = (0.2, 4.0)


@dataclass(frozen=True, eq=False)
class MomentumPolicy(ComponentPolicy):
    """The policy u(sigma) = sum_k w_k u_k gamma_k^(sigma_s - sigma) with gamma_0 = 1 (ArcFlow, arXiv 2602.09014).

    means u_k (B, K, C, *S), logweights (B, K, 1, *S) before the softmax over K, loggammas (B, K - 1, 1, *S) of all
    components but the first, as the network gives them. It has a closed form over every interval of sigma, so rollouts
    take no substeps. Shapes that do not fit raise :class:`~piflow_cli.core.validation.PolicyError`.
    """

    outputs: ClassVar[tuple[str, ...]] = ("means", "logweights", "loggammas")
    fast_rollout: ClassVar[str | None] = "momentum"
    exact: ClassVar[bool] = True

    means: Tensor
    logweights: Tensor
    loggammas: Tensor
    x_src: Tensor
    raw_src: Tensor
    shift: float = 1.0
    dropped: Tensor | None = None

    def __post_init__(self) -> None:
        self._check_components()
        batch, components, _, *space = self.means.shape
        check_shape("loggammas", self.loggammas, (batch, components - 1, 1, *space))

    @staticmethod
    def layout(components: int, channels: int) -> tuple[tuple[int, int] | None, ...]:
        return (components, channels), (components, 1), (components - 1, 1)

    @classmethod
    def from_output(
        cls, parts: Sequence[Tensor], x_src: Tensor, raw_src: Tensor, *, shift: float, segment: float
    ) -> MomentumPolicy:
        means, logweights, loggammas = parts
        return cls(means, logweights, loggammas, x_src, raw_src, shift)

    @cached_property
    def weights(self) -> Tensor:
        """The weights (B, K, 1, *S), dropout applied; they sum to one."""
        return self.kept_logweights().softmax(dim=1)

    def velocity(self, x: Tensor, raw: Tensor) -> Tensor:
        """Velocity (B, C, *S) at raw times (B,); it does not depend on the state ``x``."""
        return self.mean_velocity(raw, raw)

    def posterior_mean(self, x: Tensor, raw: Tensor) -> Tensor:
        x = working(x)
        return x - per_sample(self.sigma(raw), x) * self.velocity(x, raw)

    def mean_velocity(self, raw_from: Tensor, raw_to: Tensor) -> Tensor:
        """Velocity (B, C, *S) averaged over sigma between raw times (B,) at or below the source.

        Over an interval of length zero it is the velocity there.

        The integral of gamma^(sigma_s - sigma) from b to a is gamma^(sigma_s - a) (a - b) phi((a - b) ln gamma), with
        phi(z) = (e^z - 1) / z.
        """
        means, loggammas = working(self.means), working(self.loggammas)
        start = to_sigma(raw_from.double(), self.shift)
        past = to_sigma(self.raw_src.double(), self.shift).to(start.device) - start
        length = start - to_sigma(raw_to.double(), self.shift)
        grown = (per_sample(past, loggammas) * loggammas).exp() * phi(per_sample(length, loggammas) * loggammas)
        factors = self.weights * torch.cat([torch.ones_like(self.weights[:, :1]), grown], dim=1)
        return (factors * means).sum(dim=1)


def phi(z: Tensor) -> Tensor:
    """(e^z - 1) / z, 1 at 0, with accurate gradients of all orders; any shape and floating dtype."""
    near = z.abs() < SERIES_BELOW
    small = torch.where(near, z, 0)
    series = torch.full_like(z, 1 / math.factorial(SERIES_TERMS))
    for term in range(SERIES_TERMS - 1, 0, -1):
        series = series * small + 1 / math.factorial(term)
    large = torch.where(near, 1, z)
    return torch.where(near, series, large.expm1() / large)


class MomentumHead(ComponentHead):
    """Head of a momentum policy: K velocities, K log-weights, K - 1 log-gammas (ArcFlow, arXiv 2602.09014).

    The log-gammas start at the logarithms of K - 1 rates evenly spread in the logarithm from 0.2 to 4, whatever the
    token. Arguments are those of :class:`ComponentHead`, with K at least 2.
    """

    layers: ClassVar[tuple[str, ...]] = (*ComponentHead.layers, "loggamma")
    slow: ClassVar[tuple[str, ...]] = ("loggamma",)

    def __init__(
        self, projection: Projection, components: int, patch: int, channel_major: bool, **options: Any
    ) -> None:
        super().__init__(projection, components, patch, channel_major, **options)
        self.loggamma = like(projection, (components - 1) * patch)
        rates = torch.linspace(*map(math.log, INITIAL_GAMMAS), components - 1)
        with torch.no_grad():
            nn.init.zeros_(self.loggamma.weight)
            self.loggamma.bias.copy_(rates.repeat_interleave(patch) if channel_major else rates.repeat(patch))

    def forward(self, tokens: Tensor) -> Tensor:
        self.take_embedding()
        tokens = tokens.to(self.means.weight.dtype)
        parts = self.means(tokens), self.sign * self.logweights(tokens), self.sign * self.loggamma(tokens)
        return self._joined(*parts)

    @property
    def width(self) -> int:
        return super().width + outputs_of(self.loggamma)


MOMENTUM = PolicyKind(
    name="momentum",
    policy=MomentumPolicy,
    head=MomentumHead,
    words=Words(
        "momentum",
        "components",
        "velocities with momentum",
        "momentum (ArcFlow), {} components per position",
        "momentum keeps what is in the state",
    ),
    published=PublishedNames(
        "ArcFlow",
        class_prefix="Arc",
        fields=lambda components, width, positions: {"num_gaussians": components, "logweights_channels": positions},
        sizes={"components": ("num_gaussians", "proj_out_means.weight")},
        mark="proj_out_loggamma.weight",
    ),
    fewest=2,
    anatomy="piflow_cli.inspection.kinds.momentum:ANATOMY",
    settings=frozenset({"imitation.dropout", "optimisation.gamma_learning_rate"}),
)
