"""Policy heads: a wider output projection, initialised from the teacher's, on a model whose forward() stays as it is.

The head of each policy is in the policy's own file, under :mod:`piflow_cli.core.policies`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self


Projection = nn.Linear | nn.Conv2d
"""The last layer of a network: (B, tokens, D) or (B, D, H, W) → channels."""


def outputs_of(layer: Projection) -> int:
    """The number of channels that a projection gives."""
    return layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features


def like(layer: Projection, outputs: int, bias: bool = True) -> Any:
    """A new float32 layer of the kind of ``layer``, with other ``outputs``."""
    if isinstance(layer, nn.Conv2d):
        window: dict[str, Any] = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding")}
        return nn.Conv2d(layer.in_channels, outputs, bias=bias, dtype=torch.float32, **window)
    return nn.Linear(layer.in_features, outputs, bias, dtype=torch.float32)


@dataclass(frozen=True)
class HeadSite:
    """The place of a policy head in a model, and that of the timestep embedding.

    ``projection``: dotted path of the last nn.Linear, or nn.Conv2d with one position per token. ``patch``: positions
    per token. ``channel_major``: its rows run (c, position) rather than (position, c). ``tap``: dotted path of the
    module whose call carries the embedding, and ``tap_at`` where: ``output`` (an entry of it, with ``tap_key`` an
    integer), positional ``input`` or ``keyword``.
    ``sequence_first``: tokens come to the last layer as (tokens, B, D), and leave it so.
    ``unpatchify``: forward() folds tokens into an image of ``model.out_channels`` channels, which must be widened too.
    ``folds``: forward() folds tokens of rows (c, position), however many c there are: a log-std then has one too for
    each position.
    ``negated``: the model emits x_0 - eps and whoever calls it negates its whole output, so that log-weights and
    log-std must leave the head negated to arrive as they are. ``channels``: how many of a position's channels, the
    first ones, are predictions; None: all. ``gain``: how much larger in a velocity they are at the noisiest level.
    """

    projection: str
    patch: int
    channel_major: bool
    tap: str
    tap_at: Literal["output", "input", "keyword"]
    tap_key: int | str | None = None
    unpatchify: bool = False
    negated: bool = False
    channels: int | None = None
    gain: float = 1.0
    sequence_first: bool = False
    folds: bool = False

    def predicting(self, projection: Projection) -> Projection:
        """``projection``, or its rows of predictions alone."""
        if self.channels is None:
            return projection
        kept = like(projection, self.channels * self.patch, projection.bias is not None)
        with torch.no_grad():
            for own, values in zip(kept.parameters(), projection.parameters(), strict=True):
                own.copy_(self._kept_rows(values))
        return kept

    def _kept_rows(self, values: Tensor) -> Tensor:
        if self.channel_major:
            return values.unflatten(0, (-1, self.patch))[: self.channels].flatten(0, 1)
        return values.unflatten(0, (self.patch, -1))[:, : self.channels].flatten(0, 1)


@dataclass(frozen=True)
class HeadSizes:
    """The sizes of a head's layers.

    ``components``: K or N. ``embedding_dim``: width of the tapped timestep embedding. ``logstd_width``: hidden width of
    the network that predicts a log-std.
    """

    components: int
    embedding_dim: int
    logstd_width: int


class PolicyHead(nn.Module, ABC):
    """The base of all heads: repeated copies of a projection, in either order of rows.

    A new head has ``width`` and ``forward``: tokens (B, tokens, D) → (B, tokens, width), or of videos (B, F, H, W, D) →
    (B, F, H, W, width), or (B, D, H, W) → (B, width, H, W) where the projection is a convolution, in the order that the
    layout of its policy states. ``layers`` names its
    parts, which stay in full precision whatever the model is stored in, and ``slow`` those of them that learn at a rate
    of their own, the one of log-gammas.
    """

    layers: ClassVar[tuple[str, ...]] = ()
    slow: ClassVar[tuple[str, ...]] = ()

    def __init__(self, patch: int, channel_major: bool) -> None:
        super().__init__()
        self.patch = patch
        self.channel_major = channel_major
        self.embedding: Tensor | None = None

    @classmethod
    def build(
        cls,
        projection: Projection,
        site: HeadSite,
        sizes: HeadSizes,
        *,
        bias_noise: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Self:
        """The head at ``site``, initialised from the ``projection`` that is there.

        ``bias_noise``: scale of the noise that tells components apart; None: as published. ``generator`` draws it.
        """
        options = cls.options(site, sizes, {"bias_noise": bias_noise, "generator": generator})
        # Heads share these arguments; this class itself is no head.
        kind: Any = cls
        return kind(site.predicting(projection), sizes.components, site.patch, site.channel_major, **options)

    @classmethod
    def options(cls, site: HeadSite, sizes: HeadSizes, noise: Mapping[str, Any]) -> dict[str, Any]:
        """What the constructor takes besides projection, components, patch and order of rows.

        ``noise`` holds the ``bias_noise`` and the ``generator`` of :meth:`build`.
        """
        return {}

    @property
    @abstractmethod
    def width(self) -> int:
        """Channels emitted per token."""

    def published_names(self, projection: str) -> dict[str, str]:
        """Names of the head's tensors → what published files call them.

        ``projection``: the name of the layer whose place the head takes.
        """
        return {name: f"proj_out_{name}" for name in nn.Module.state_dict(self)}

    def take_embedding(self, samples: int | None = None) -> Tensor:
        """The tapped timestep embedding, (B, E) of that many ``samples``; None: as the tap saw it.

        It is given out once, so that no graph outlives its step. Some networks carry one for each token, (B, n, E), of
        which the last is of the picture: what is clean already, such as a first frame, comes before. Others have rows
        beyond the samples, for what stands at another time.
        """
        embedding, self.embedding = self.embedding, None
        if embedding is None:
            raise RuntimeError("the policy head was called before its tap saw a timestep embedding")
        if samples is None:
            return embedding
        return embedding[:samples].flatten(1, -2)[:, -1] if embedding.ndim > 2 else embedding[:samples]

    def _rows(self, values: Tensor, copies: int) -> Tensor:
        """Rows of the projection repeated ``copies`` times: (copy, c, position), or (position, copy, c)."""
        if self.channel_major:
            return values.repeat(copies, *[1] * (values.ndim - 1))
        return values.unflatten(0, (self.patch, 1, -1)).expand(-1, copies, *[-1] * values.ndim).flatten(0, 2)

    def _widened(self, projection: Projection, copies: int, bias: bool) -> Any:
        wide = like(projection, copies * outputs_of(projection), bias)
        with torch.no_grad():
            wide.weight.copy_(self._rows(projection.weight, copies))
            if projection.bias is not None:
                wide.bias.copy_(self._rows(projection.bias, copies))
            elif bias:
                wide.bias.zero_()
        return wide

    def _joined(self, *parts: Tensor) -> Tensor:
        """Parts (B, tokens, patch * width) or (B, width, H, W) as one, in the order that the layout states."""
        if parts[0].ndim == 4:
            return torch.cat(parts, dim=1)
        if self.channel_major:
            return torch.cat(parts, dim=-1)
        # Every position of a token holds its own channels.
        return torch.cat([part.unflatten(-1, (self.patch, -1)) for part in parts], dim=-1).flatten(-2)


class _Tap:
    """Hooks that hand the timestep embedding to a head.

    They are an object, so that a deep copy of the model taps its own head.
    """

    def __init__(self, head: Any, key: Any) -> None:
        self.head = head
        self.key = key

    def output(self, module: nn.Module, args: tuple, output) -> None:
        self.head.embedding = output if self.key is None else output[self.key]

    def input(self, module: nn.Module, args: tuple) -> None:
        self.head.embedding = args[self.key]

    def keyword(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.head.embedding = kwargs[self.key]


def attach_head(model: Any, site: HeadSite, head: PolicyHead) -> None:
    """Put ``head`` in place of the projection of ``model`` and let it see the timestep embedding."""
    if site.unpatchify:
        model.out_channels = widened_channels(model, site, head)
    model.set_submodule(site.projection, head)
    tap_embedding(model, site, head)


def tap_embedding(model: nn.Module, site: HeadSite, head: nn.Module) -> None:
    """Let every call of ``model`` put its timestep embedding into ``head.embedding``, which sees batches first."""
    if site.sequence_first:
        head.register_forward_pre_hook(_batch_first)
        head.register_forward_hook(_tokens_first)
    tapped, tap = model.get_submodule(site.tap), _Tap(head, site.tap_key)
    if site.tap_at == "output":
        tapped.register_forward_hook(tap.output)
    elif site.tap_at == "input":
        tapped.register_forward_pre_hook(tap.input)
    else:
        tapped.register_forward_pre_hook(tap.keyword, with_kwargs=True)


def _batch_first(module: nn.Module, args: tuple) -> tuple:
    return args[0].transpose(0, 1), *args[1:]


def _tokens_first(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    return output.transpose(0, 1)


def widened_channels(model: Any, site: HeadSite, head: PolicyHead) -> int:
    """``model.out_channels`` once ``head`` replaces the projection; to be called while the projection is there."""
    return head.width * model.out_channels // model.get_submodule(site.projection).out_features
