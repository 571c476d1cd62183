"""GMFlow: each position is a mixture of isotropic Gaussians over x_0 (arXiv 2504.05304; arXiv 2510.14974)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from ..tensors import per_sample, working
from ..validation import check_positive, check_shape
from .components import ComponentPolicy

DENOMINATOR_FLOOR = 1e-6


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

    def detach(self) -> GMFlowPolicy:
        return replace(
            self,
            means=self.means.detach(),
            logweights=self.logweights.detach(),
            logstds=self.logstds.detach(),
            x_src=self.x_src.detach(),
        )

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
        """The mixture over x_0 given the state ``x`` (B, C, *S) at raw times (B,); its mean is :meth:`posterior_mean`."""
        logits, pull, denominator = self._evidence(x, raw)
        means, _, variance = self.mixture
        spread = variance / denominator.reshape(-1)
        return Mixture((pull.unsqueeze(1) + means) / denominator, logits.log_softmax(dim=1), spread)

    def _evidence(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, K, 1, *S) of the posterior; what all means (B, C, *S) gain before they are divided by the last, (B, 1, ...)."""
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
