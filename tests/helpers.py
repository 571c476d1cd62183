"""What tests share: golden numbers, random policies, and the exact flow of a Gaussian mixture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from piflow_cli.core.policies.dx import DXPolicy, DXPolynomialPolicy
from piflow_cli.core.policies.gmflow import GMFlowPolicy
from piflow_cli.core.policies.momentum import MomentumPolicy
from piflow_cli.core.timegrid import to_raw

GOLDEN = Path(__file__).parent / "data" / "golden"


@cache
def golden(name: str) -> dict[str, Tensor]:
    """Numbers of the published implementation, by file name."""
    return load_file(GOLDEN / name)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawing(seed: int, dtype: torch.dtype) -> Callable[..., Tensor]:
    """A function from sizes to normal numbers: the same ones in every dtype."""
    generator = seeded(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def at(raw: float | Tensor, batch: int) -> Tensor:
    return torch.as_tensor(raw, dtype=torch.float64).expand(batch)


def _random_components(
    kind: type[GMFlowPolicy] | type[MomentumPolicy],
    batch: int = 2,
    components: int = 3,
    channels: int = 2,
    space: tuple[int, ...] = (3, 2),
    *,
    raw_src: float | Tensor = 0.9,
    shift: float = 1.0,
    logstd: float = -2.0,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> GMFlowPolicy | MomentumPolicy:
    """A policy of components; ``logstd`` is that of a GM, and momentum has none."""
    draw = drawing(seed, dtype)
    means, logweights = draw(batch, components, channels, *space), draw(batch, components, 1, *space)
    gm = kind is GMFlowPolicy
    last = logstd + 0.3 * draw(batch) if gm else draw(batch, components - 1, 1, *space)
    return kind(means, logweights, last, draw(batch, channels, *space), at(raw_src, batch), shift)


random_gm = partial(_random_components, GMFlowPolicy)
random_momentum = partial(_random_components, MomentumPolicy)


def random_dx(
    batch: int = 2,
    points: int = 4,
    channels: int = 2,
    space: tuple[int, ...] = (3, 2),
    *,
    raw_src: float | Tensor = 0.9,
    segment: float = 0.5,
    shift: float = 1.0,
    polynomial: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> DXPolicy:
    draw = drawing(seed, dtype)
    return (DXPolynomialPolicy if polynomial else DXPolicy)(
        grid=draw(batch, points, channels, *space),
        x_src=draw(batch, channels, *space),
        raw_src=at(raw_src, batch),
        segment=segment,
        shift=shift,
    )


def golden_gm() -> GMFlowPolicy:
    numbers = golden("policies.safetensors")
    parameters = [numbers[f"gm.{name}"] for name in ("means", "logweights", "logstds")]
    return GMFlowPolicy(*parameters, numbers["x_src"], numbers["raw_src"], 3.2)


def golden_dx(mode: str) -> DXPolicy:
    numbers = golden("policies.safetensors")
    grid = numbers[f"dx.{mode}.grid"]
    kind = DXPolynomialPolicy if mode == "polynomial" else DXPolicy
    return kind(grid, numbers["x_src"], numbers["raw_src"], 1 / 3.5, 3.2)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    """Equal to within ``tolerance``, relative to each value or to the largest."""
    torch.testing.assert_close(
        ours.double(), theirs.double(), rtol=tolerance, atol=tolerance * theirs.abs().max().item()
    )


class MixtureFlow:
    """The exact flow of data drawn from a mixture of isotropic Gaussians in R^C: a teacher whose answers are known.

    means (K, C), weights (K,), one standard deviation; everything float64.
    States are (B, C, *S), positions independent.
    """

    def __init__(self, means: Tensor, weights: Tensor, std: float) -> None:
        self.means, self.weights, self.std = means.double(), weights.double(), std

    def posterior_mean(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x] by Bayes' rule: x given component k is normal around (1 - sigma) mu_k."""
        sigma = sigma.double().reshape(-1, *[1] * x.ndim)
        means = self.means.reshape(1, *self.means.shape, *[1] * (x.ndim - 2))
        weights = self.weights.log().reshape(1, -1, *[1] * (x.ndim - 1))
        signal, spread = 1 - sigma, (1 - sigma) ** 2 * self.std**2 + sigma**2
        residual = x.double().unsqueeze(1) - signal * means
        logits = weights - residual.square().sum(dim=2, keepdim=True) / (2 * spread)
        conditional = means + signal * self.std**2 / spread * residual
        return (logits.softmax(dim=1) * conditional).sum(dim=1)

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        spread = sigma.double().reshape(-1, *[1] * (x.ndim - 1))
        return (x.double() - self.posterior_mean(x, sigma)) / spread

    def policy(self, x_src: Tensor, sigma_src: Tensor, shift: float = 1.0) -> GMFlowPolicy:
        """The GM policy of the exact posterior q(x_0 | x_src), in the network's own parameters.

        The posterior of a mixture is a mixture: K conditional means and weights, variance s^2 sigma^2 / spread.
        """
        sigma = sigma_src.double().reshape(-1, *[1] * x_src.ndim)
        shape = (1, *self.means.shape, *[1] * (x_src.ndim - 2))
        signal, spread = 1 - sigma, (1 - sigma) ** 2 * self.std**2 + sigma**2
        residual = x_src.double().unsqueeze(1) - signal * self.means.reshape(shape)
        logweights = self.weights.log().reshape(1, -1, *[1] * (x_src.ndim - 1))
        logweights = logweights - residual.square().sum(dim=2, keepdim=True) / (2 * spread)
        conditional = self.means.reshape(shape) + signal * self.std**2 / spread * residual
        std = self.std / spread.flatten().sqrt()
        return GMFlowPolicy(
            means=(x_src.double().unsqueeze(1) - conditional) / sigma,
            logweights=logweights,
            logstds=std.log(),
            x_src=x_src.double(),
            raw_src=to_raw(sigma_src.double(), shift),
            shift=shift,
        )
