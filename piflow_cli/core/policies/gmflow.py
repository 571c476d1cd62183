"""GMFlow: each position is a mixture of isotropic Gaussians over x_0 (arXiv 2504.05304; arXiv 2510.14974)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..heads import HeadSite, HeadSizes, Projection
from ..tensors import per_sample, working
from ..validation import check_finite, check_positive, check_shape
from .components import ComponentHead, ComponentPolicy
from .kinds import PolicyKind, PublishedNames, Words

DENOMINATOR_FLOOR = 1e-6
INITIAL_STD = 0.05


class Mixture(NamedTuple):
    """A mixture over x_0: means (B, K, C, *S), log-weights (B, K, 1, *S) that sum to one, variance (B,)."""

    means: Tensor
    logweights: Tensor
    variance: Tensor


@dataclass(frozen=True, eq=False)
class GMFlowPolicy(ComponentPolicy):
    """The policy of a Gaussian mixture predicted in velocity space.

    means (B, K, C, *S), logweights (B, K, 1, *S) before the softmax over K, logstds (B,), as the network gives them
    (any strides). ``temperature`` in (0, 1] sharpens the mixture; ``dropped`` (B, K) bool marks components that are
    left out. Shapes that do not fit raise :class:`~piflow_cli.core.validation.PolicyError`.
    """

    outputs: ClassVar[tuple[str, ...]] = ("means", "logweights", "logstds")
    fast_rollout: ClassVar[str | None] = "gm"

    means: Tensor
    logweights: Tensor
    logstds: Tensor
    x_src: Tensor
    raw_src: Tensor
    shift: float = 1.0
    temperature: float = 1.0
    dropped: Tensor | None = None

    def __post_init__(self) -> None:
        self._check_components()
        check_shape("logstds", self.logstds.reshape(-1), self.means.shape[:1])
        check_positive("temperature", self.temperature)

    @staticmethod
    def layout(components: int, channels: int) -> tuple[tuple[int, int] | None, ...]:
        return (components, channels), (components, 1), None

    @classmethod
    def from_output(
        cls, parts: Sequence[Tensor], x_src: Tensor, raw_src: Tensor, *, shift: float, segment: float
    ) -> GMFlowPolicy:
        means, logweights, logstds = parts
        return cls(means, logweights, logstds, x_src, raw_src, shift)

    def check_source(self) -> None:
        check_finite("logstds", self.logstds)

    def with_temperature(self, temperature: float) -> GMFlowPolicy:
        """The policy with log-weights divided by ``temperature`` and the variance multiplied by it."""
        return replace(self, temperature=temperature)

    @cached_property
    def mixture(self) -> Mixture:
        """The mixture over x_0, temperature and dropout applied."""
        means = working(self.means)
        logstds = working(self.logstds.reshape(-1))
        return Mixture(
            working(self.x_src).unsqueeze(1) - per_sample(self.sigma_src, means) * means,
            (self.kept_logweights() / self.temperature).log_softmax(dim=1),
            (2 * logstds).exp() * per_sample(self.sigma_src, logstds) ** 2 * self.temperature,
        )

    def posterior_mean(self, x: Tensor, raw: Tensor) -> Tensor:
        """Mean of x_0 given the state ``x`` (B, C, *S) at raw times (B,) (arXiv 2504.05304, its closed-form posterior).

        The likelihood ratio of (x, sigma) and (x_src, sigma_src) is a Gaussian in x_0 with precision zeta and linear
        term nu; both vanish at the source, where the prior weights remain.
        """
        logits, pull, denominator = self._evidence(x, raw)
        return (pull + (logits.softmax(dim=1) * self.mixture.means).sum(dim=1)) / denominator.squeeze(1)

    def posterior(self, x: Tensor, raw: Tensor) -> Mixture:
        """The mixture over x_0 given ``x`` (B, C, *S) at raw times (B,); its mean is :meth:`posterior_mean`."""
        logits, pull, denominator = self._evidence(x, raw)
        means, _, variance = self.mixture
        spread = variance / denominator.reshape(-1)
        return Mixture((pull.unsqueeze(1) + means) / denominator, logits.log_softmax(dim=1), spread)

    def _evidence(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, K, 1, *S) of the posterior, the term (B, C, *S) added to all means, its divisor (B, 1, ...)."""
        means, logweights, variance = self.mixture
        sigma, sigma_src = self.sigma(raw), self.sigma_src
        odds, odds_src = (1 - sigma) / sigma, (1 - sigma_src) / sigma_src
        x = working(x)
        nu = per_sample(odds / sigma, x) * x - per_sample(odds_src / sigma_src, x) * working(self.x_src)
        zeta = per_sample(odds**2 - odds_src**2, means)
        variance = per_sample(variance, means)
        denominator = (variance * zeta + 1).clamp(min=DENOMINATOR_FLOOR)
        evidence = (means * nu.unsqueeze(1)).sum(dim=2, keepdim=True) - zeta / 2 * means.square().sum(
            dim=2, keepdim=True
        )
        return logweights + evidence / denominator, variance.squeeze(1) * nu, denominator


class GMHead(ComponentHead):
    """Head of a GMFlow policy: K means, K log-weights, one log-std (pi-Flow, arXiv 2510.14974, appendix).

    The log-std is an MLP on the detached timestep embedding (B, ``embedding_dim``), starting at ln 0.05 with a hidden
    layer by Xavier. Other arguments are those of :class:`ComponentHead`.
    """

    layers: ClassVar[tuple[str, ...]] = (*ComponentHead.layers, "logstds")

    def __init__(
        self,
        projection: Projection,
        components: int,
        patch: int,
        channel_major: bool,
        embedding_dim: int,
        logstd_width: int,
        *,
        folds: bool = False,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__(projection, components, patch, channel_major, generator=generator, **options)
        self.stds = 1 if channel_major and not folds else patch  # for each token, all of one value
        hidden, last = nn.Linear(embedding_dim, logstd_width), nn.Linear(logstd_width, 1)
        self.logstds = nn.Sequential(nn.SiLU(), hidden, nn.SiLU(), last)
        with torch.no_grad():
            nn.init.xavier_uniform_(hidden.weight, generator=generator)
            nn.init.zeros_(hidden.bias)
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, math.log(INITIAL_STD))

    def forward(self, tokens: Tensor) -> Tensor:
        embedding = self.take_embedding(len(tokens)).detach().to(next(self.logstds.parameters()).dtype)
        tokens = tokens.to(self.means.weight.dtype)
        means, logweights = self.means(tokens), self.sign * self.logweights(tokens)
        logstds = self.sign * self.logstds(embedding).to(means.dtype)
        if means.ndim == 4:
            logstds = logstds[:, :, None, None].expand(-1, -1, *means.shape[2:])
        else:
            logstds = logstds.unflatten(0, (-1, *[1] * (tokens.ndim - 2))).expand(*tokens.shape[:-1], self.stds)
        return self._joined(means, logweights, logstds)

    @classmethod
    def options(cls, site: HeadSite, sizes: HeadSizes, noise: Mapping[str, Any]) -> dict[str, Any]:
        own = {"embedding_dim": sizes.embedding_dim, "logstd_width": sizes.logstd_width, "folds": site.folds}
        return {**super().options(site, sizes, noise), **own}

    @property
    def width(self) -> int:
        return super().width + self.stds


GM = PolicyKind(
    name="gm",
    policy=GMFlowPolicy,
    head=GMHead,
    words=Words("GM", "components", "a Gaussian mixture", "GMFlow, {} Gaussians per position"),
    published=PublishedNames(
        "GMFlow",
        class_prefix="GM",
        fields=lambda components, width, positions: {
            "num_gaussians": components,
            "logweights_channels": positions,
            "constant_logstd": None,
            "logstd_inner_dim": width,
            "gm_num_logstd_layers": 2,
        },
        sizes={
            "components": ("num_gaussians", "proj_out_means.weight"),
            "logstd_width": ("logstd_inner_dim", "proj_out_logstds.1.weight"),
        },
        mark="proj_out_logstds.1.weight",
    ),
    anatomy="piflow_cli.inspection.kinds.mixture:ANATOMY",
    settings=frozenset({"policy.temperature", "policy.logstd_width", "imitation.dropout"}),
)
