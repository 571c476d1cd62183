"""Policy heads: a wider output projection, initialised from the teacher's, on a model whose forward() stays as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

INITIAL_STD = 0.05
INITIAL_GAMMAS = (0.2, 4.0)
BIAS_NOISE = 0.05
BIAS_NOISE_ALONE = 0.1  # of projections without a bias, as those of FLUX.2


@dataclass(frozen=True)
class HeadSite:
    """Where a policy head sits in a model, and where it finds the timestep embedding.

    ``projection``: dotted path of the last nn.Linear. ``patch``: positions per token. ``channel_major``: its rows run
    (c, position) rather than (position, c). ``tap``: dotted path of the module whose call carries the embedding, and
    ``tap_at`` where: ``output`` (an entry of it, with ``tap_key`` an integer), positional ``input`` or ``keyword``.
    ``unpatchify``: forward() folds tokens into an image of ``model.out_channels`` channels, which must be widened too.
    ``negated``: the model emits x_0 - eps and whoever calls it negates its whole output, so that log-weights and log-std
    must leave the head negated to arrive as they are.
    """

    projection: str
    patch: int
    channel_major: bool
    tap: str
    tap_at: Literal["output", "input", "keyword"]
    tap_key: int | str | None = None
    unpatchify: bool = False
    negated: bool = False


class PolicyHead(nn.Module):
    """What all heads share: repeated copies of a projection, in either order of rows."""

    def __init__(self, patch: int, channel_major: bool) -> None:
        super().__init__()
        self.patch = patch
        self.channel_major = channel_major
        self.embedding: Tensor | None = None

    def take_embedding(self) -> Tensor:
        """The tapped timestep embedding (B, E), given out once so that no graph outlives its step."""
        embedding, self.embedding = self.embedding, None
        if embedding is None:
            raise RuntimeError("the policy head was called before its tap saw a timestep embedding")
        return embedding

    def _rows(self, values: Tensor, copies: int) -> Tensor:
        """Rows of the projection repeated ``copies`` times: (copy, c, position), or (position, copy, c)."""
        if self.channel_major:
            return values.repeat(copies, *[1] * (values.ndim - 1))
        return values.unflatten(0, (self.patch, 1, -1)).expand(-1, copies, *[-1] * values.ndim).flatten(0, 2)

    def _widened(self, projection: nn.Linear, copies: int, bias: bool) -> nn.Linear:
        wide = nn.Linear(projection.in_features, copies * projection.out_features, bias, dtype=torch.float32)
        with torch.no_grad():
            wide.weight.copy_(self._rows(projection.weight, copies))
            if projection.bias is not None:
                wide.bias.copy_(self._rows(projection.bias, copies))
            elif bias:
                wide.bias.zero_()
        return wide

    def _per_position(self, *parts: Tensor) -> Tensor:
        """Join (B, tokens, patch * width) parts so that every position of a token holds its own channels."""
        return torch.cat([part.unflatten(-1, (self.patch, -1)) for part in parts], dim=-1).flatten(-2)


class ComponentHead(PolicyHead):
    """What heads of K components share: K velocities per position, and K log-weights.

    Tokens (B, tokens, D) → (B, tokens, width) in the order that :class:`~piflow_cli.core.decoding.PolicyDecoder` reads.
    Velocities start as K copies of ``projection`` with noise of ``bias_noise`` on each (component, channel) bias,
    log-weights at zero (pi-Flow, arXiv 2510.14974, appendix, and the configurations published with it, where the noise is
    0.05 on a bias that is there, and 0.1 in place of one that is not).
    """

    def __init__(
        self,
        projection: nn.Linear,
        components: int,
        patch: int,
        channel_major: bool,
        *,
        negated: bool = False,
        bias_noise: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(patch, channel_major)
        channels = projection.out_features // patch
        self.sign = -1.0 if negated else 1.0
        self.means = self._widened(projection, components, bias=True)
        self.logweights = nn.Linear(projection.in_features, components * patch)
        if bias_noise is None:
            bias_noise = BIAS_NOISE_ALONE if projection.bias is None else BIAS_NOISE
        noise = bias_noise * torch.randn(components, channels, generator=generator)
        with torch.no_grad():
            if channel_major:
                self.means.bias.unflatten(0, (components, channels, patch)).add_(noise.unsqueeze(-1))
            else:
                self.means.bias.unflatten(0, (patch, components, channels)).add_(noise)
            nn.init.zeros_(self.logweights.weight)
            nn.init.zeros_(self.logweights.bias)


class GMHead(ComponentHead):
    """Head of a GMFlow policy: K means, K log-weights, one log-std (pi-Flow, arXiv 2510.14974, appendix).

    The log-std is an MLP on the detached timestep embedding (B, ``embedding_dim``), starting at ln 0.05 with a hidden layer
    by Xavier. Other arguments are those of :class:`ComponentHead`.
    """

    def __init__(
        self,
        projection: nn.Linear,
        components: int,
        patch: int,
        channel_major: bool,
        embedding_dim: int,
        logstd_width: int,
        *,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__(projection, components, patch, channel_major, generator=generator, **options)
        self.logstds = nn.Sequential(nn.SiLU(), nn.Linear(embedding_dim, logstd_width), nn.SiLU(), nn.Linear(logstd_width, 1))
        with torch.no_grad():
            nn.init.xavier_uniform_(self.logstds[1].weight, generator=generator)
            nn.init.zeros_(self.logstds[1].bias)
            nn.init.zeros_(self.logstds[3].weight)
            nn.init.constant_(self.logstds[3].bias, math.log(INITIAL_STD))

    def forward(self, tokens: Tensor) -> Tensor:
        embedding = self.take_embedding().detach().to(self.logstds[1].weight.dtype)
        tokens = tokens.to(self.means.weight.dtype)
        means, logweights = self.means(tokens), self.sign * self.logweights(tokens)
        logstds = self.sign * self.logstds(embedding).to(means.dtype).unsqueeze(1)
        if self.channel_major:
            return torch.cat([means, logweights, logstds.expand(-1, tokens.shape[1], -1)], dim=-1)
        return self._per_position(means, logweights, logstds.expand(-1, tokens.shape[1], self.patch))


class MomentumHead(ComponentHead):
    """Head of a momentum policy: K velocities, K log-weights, K - 1 log-gammas (ArcFlow, arXiv 2602.09014).

    The log-gammas start at the logarithms of K - 1 rates evenly spread in the logarithm from 0.2 to 4, whatever the token.
    Arguments are those of :class:`ComponentHead`, with K at least 2.
    """

    def __init__(self, projection: nn.Linear, components: int, patch: int, channel_major: bool, **options: Any) -> None:
        super().__init__(projection, components, patch, channel_major, **options)
        self.loggamma = nn.Linear(projection.in_features, (components - 1) * patch)
        rates = torch.linspace(*map(math.log, INITIAL_GAMMAS), components - 1)
        with torch.no_grad():
            nn.init.zeros_(self.loggamma.weight)
            self.loggamma.bias.copy_(rates.repeat_interleave(patch) if channel_major else rates.repeat(patch))

    def forward(self, tokens: Tensor) -> Tensor:
        self.take_embedding()
        tokens = tokens.to(self.means.weight.dtype)
        parts = self.means(tokens), self.sign * self.logweights(tokens), self.sign * self.loggamma(tokens)
        return torch.cat(parts, dim=-1) if self.channel_major else self._per_position(*parts)


class DXHead(PolicyHead):
    """Head of a DX policy: the projection N times over, with a bias if it has one (pi-Flow, arXiv 2510.14974, section 3.1).

    Of a ``polynomial`` the constant term alone starts as the projection, and the others at zero, as in the published class.
    """

    def __init__(self, projection: nn.Linear, components: int, patch: int, channel_major: bool, *, polynomial: bool = False) -> None:
        super().__init__(patch, channel_major)
        self.grid = self._widened(projection, components, bias=projection.bias is not None)
        if polynomial:
            with torch.no_grad():
                for rows in self.grid.parameters():
                    rows.unflatten(0, (1 if channel_major else patch, components, -1))[:, 1:].zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        self.take_embedding()
        return self.grid(tokens.to(self.grid.weight.dtype))


class _Tap:
    """Hooks that hand the timestep embedding to a head; an object, so that a deep copy of the model taps its own head."""

    def __init__(self, head: nn.Module, key: int | str | None) -> None:
        self.head = head
        self.key = key

    def output(self, module: nn.Module, args: tuple, output) -> None:
        self.head.embedding = output if self.key is None else output[self.key]

    def input(self, module: nn.Module, args: tuple) -> None:
        self.head.embedding = args[self.key]

    def keyword(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.head.embedding = kwargs[self.key]


def attach_head(model: nn.Module, site: HeadSite, head: PolicyHead) -> None:
    """Put ``head`` in place of the projection of ``model`` and let it see the timestep embedding."""
    if site.unpatchify:
        model.out_channels = widened_channels(model, site, head)
    model.set_submodule(site.projection, head)
    tap_embedding(model, site, head)


def tap_embedding(model: nn.Module, site: HeadSite, head: nn.Module) -> None:
    """Let every call of ``model`` put its timestep embedding into ``head.embedding``."""
    tapped, tap = model.get_submodule(site.tap), _Tap(head, site.tap_key)
    if site.tap_at == "output":
        tapped.register_forward_hook(tap.output)
    elif site.tap_at == "input":
        tapped.register_forward_pre_hook(tap.input)
    else:
        tapped.register_forward_pre_hook(tap.keyword, with_kwargs=True)


def widened_channels(model: nn.Module, site: HeadSite, head: PolicyHead) -> int:
    """What ``model.out_channels`` becomes once ``head`` takes the place of the projection that is still there."""
    return _width(head) * model.out_channels // model.get_submodule(site.projection).out_features


def _width(head: PolicyHead) -> int:
    """Channels that a head emits per token."""
    if isinstance(head, DXHead):
        return head.grid.out_features
    shared = head.means.out_features + head.logweights.out_features
    if isinstance(head, MomentumHead):
        return shared + head.loggamma.out_features
    return shared + (1 if head.channel_major else head.patch)
