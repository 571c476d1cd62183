"""New families of policies, each a row as those of core/policies: mixtures, but for one thing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from piflow_cli.core.heads import Projection, like, outputs_of
from piflow_cli.core.policies.components import ComponentHead
from piflow_cli.core.policies.gmflow import GM, INITIAL_STD, GMFlowPolicy, GMHead
from piflow_cli.core.policies.kinds import PolicyKind, PublishedNames
from piflow_cli.core.tensors import per_sample, working
from piflow_cli.core.validation import check_finite, check_shape


@dataclass(frozen=True, eq=False)
class VariancesPolicy(GMFlowPolicy):
    """A mixture with a variance of its own for each component at each position: logstds (B, K, 1, *S)."""

    def __post_init__(self) -> None:
        self._check_components()
        check_shape("logstds", self.logstds, self.logweights.shape)

    @staticmethod
    def layout(components: int, channels: int) -> tuple[tuple[int, int] | None, ...]:
        return (components, channels), (components, 1), (components, 1)

    def check_source(self) -> None:
        check_finite("logstds", self.logstds)

    def posterior_mean(self, x: Tensor, raw: Tensor) -> Tensor:
        """As of GMFlow, but that what its components have in common is not: log-determinants, and v |nu|^2."""
        sigma, sigma_src, x, x_src = self.sigma(raw), self.sigma_src, working(x), working(self.x_src)
        odds, odds_src = (1 - sigma) / sigma, (1 - sigma_src) / sigma_src
        means = x_src.unsqueeze(1) - per_sample(sigma_src, self.means) * working(self.means)
        variance = (2 * working(self.logstds)).exp() * per_sample(sigma_src**2 * self.temperature, means)
        nu = (per_sample(odds / sigma, x) * x - per_sample(odds_src / sigma_src, x) * x_src).unsqueeze(1)
        zeta = per_sample(odds**2 - odds_src**2, means)
        divisor = (variance * zeta + 1).clamp(min=1e-6)
        energy = (means * nu + variance * nu.square() / 2 - zeta / 2 * means.square()).sum(dim=2, keepdim=True)
        logweights = (self.kept_logweights() / self.temperature).log_softmax(dim=1)
        logits = logweights + energy / divisor - means.shape[2] / 2 * divisor.log()
        return (logits.softmax(dim=1) * (means + variance * nu) / divisor).sum(dim=1)


class VariancesHead(ComponentHead):
    """K velocities, log-weights and log-stds per position; these start at ln 0.05, whatever the token."""

    layers: ClassVar[tuple[str, ...]] = (*ComponentHead.layers, "logstds")

    def __init__(self, projection: Projection, components: int, patch: int, *order: bool, **options: Any) -> None:
        super().__init__(projection, components, patch, *order, **options)
        self.logstds = like(projection, components * patch)
        with torch.no_grad():
            nn.init.zeros_(self.logstds.weight)
            nn.init.constant_(self.logstds.bias, math.log(INITIAL_STD))

    def forward(self, tokens: Tensor) -> Tensor:
        self.take_embedding()
        parts = self.means(tokens), self.sign * self.logweights(tokens), self.sign * self.logstds(tokens)
        return self._joined(*parts)

    @property
    def width(self) -> int:
        return super().width + outputs_of(self.logstds)


@dataclass(frozen=True, eq=False)
class DriftPolicy(GMFlowPolicy):
    """A mixture whose velocities move in a straight line: means + (raw_src - raw) drifts (B, K, C, *S)."""

    outputs: ClassVar[tuple[str, ...]] = (*GMFlowPolicy.outputs, "drifts")

    drifts: Tensor = field(kw_only=True)

    @staticmethod
    def layout(components: int, channels: int) -> tuple[tuple[int, int] | None, ...]:
        return (*GMFlowPolicy.layout(components, channels), (components, channels))

    @classmethod
    def from_output(
        cls, parts: Sequence[Tensor], x_src: Tensor, raw_src: Tensor, *, shift: float, segment: float
    ) -> DriftPolicy:
        means, logweights, logstds, drifts = parts
        return cls(means, logweights, logstds, x_src, raw_src, shift, drifts=drifts)

    def posterior_mean(self, x: Tensor, raw: Tensor) -> Tensor:
        drifts = working(self.drifts)
        means = working(self.means) + per_sample(self.raw_src - raw, drifts) * drifts
        now = (means, self.logweights, self.logstds, self.x_src, self.raw_src, self.shift)
        return GMFlowPolicy(*now, self.temperature, self.dropped).posterior_mean(x, raw)


class DriftHead(GMHead):
    """The head of a mixture, and K drifts per position, which start at zero."""

    layers: ClassVar[tuple[str, ...]] = (*GMHead.layers, "drifts")

    def __init__(self, projection: Projection, components: int, *others: Any, **options: Any) -> None:
        super().__init__(projection, components, *others, **options)
        self.drifts = like(projection, components * outputs_of(projection))
        with torch.no_grad():
            for values in self.drifts.parameters():
                nn.init.zeros_(values)

    def forward(self, tokens: Tensor) -> Tensor:
        return self._joined(super().forward(tokens), self.drifts(tokens))

    @property
    def width(self) -> int:
        return super().width + outputs_of(self.drifts)


class Factors(nn.Module):
    """K velocities per position as combinations of ``rank`` of them, (B, tokens, D) → (B, tokens, patch K C).

    The first of these starts as ``projection``, the others as constants: what noise on K biases is to a full head.
    """

    def __init__(self, projection: nn.Linear, components: int, patch: int, rank: int, noise: float) -> None:
        super().__init__()
        self.patch, self.out_features = patch, components * projection.out_features
        self.basis = nn.ModuleList([like(projection, projection.out_features) for _ in range(rank)])
        self.mixing = nn.Parameter(torch.randn(components, rank))
        with torch.no_grad():
            self.mixing[:, 0] = 1
            for part in self.basis:
                nn.init.zeros_(part.weight)
                nn.init.normal_(part.bias, std=noise / max(1, rank - 1) ** 0.5)
            self.basis[0].load_state_dict(projection.state_dict())

    @property
    def weight(self) -> Tensor:
        return self.mixing

    def forward(self, tokens: Tensor) -> Tensor:
        parts = torch.stack([part(tokens).unflatten(-1, (self.patch, -1)) for part in self.basis], dim=-2)
        return torch.einsum("kr,...rc->...kc", self.mixing, parts).flatten(-3)


class LowRankHead(GMHead):
    """The head of a mixture whose velocities have a low rank over the components, for linear heads like DiT's."""

    RANK: ClassVar[int] = 3

    def __init__(
        self, projection: nn.Linear, components: int, patch: int, channel_major: bool, *others: Any, **options: Any
    ) -> None:
        super().__init__(projection, components, patch, channel_major, *others, **options)
        assert not channel_major, "the rows of its projection run (position, c)"
        self.means = Factors(projection, components, patch, self.RANK, noise=0.05)


def _kind(name: str, **other: Any) -> PolicyKind:
    """A row in the place of gm's; ``name`` is for files."""
    return replace(GM, published=PublishedNames(name, class_prefix=None), anatomy=None, **other)


VARIANCES = _kind("gm-variances", policy=VariancesPolicy, head=VariancesHead)
DRIFT = _kind("gm-drift", policy=DriftPolicy, head=DriftHead)
LOW_RANK = _kind("gm-low-rank", head=LowRankHead)
