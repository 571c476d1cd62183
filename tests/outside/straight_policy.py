"""A policy that piflow does not know: straight lines, the mean of K velocities.
It lives here, as another package's would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from piflow_cli.core.heads import PolicyHead
from piflow_cli.core.policies.base import Policy
from piflow_cli.core.policies.kinds import PolicyKind, PublishedNames, Words
from piflow_cli.core.tensors import per_sample, working


@dataclass(frozen=True, eq=False)
class StraightPolicy(Policy):
    """u = mean of ``lines`` (B, K, C, *S), whatever time and state."""

    outputs: ClassVar[tuple[str, ...]] = ("lines",)

    lines: Tensor
    x_src: Tensor
    raw_src: Tensor
    shift: float = 1.0

    @staticmethod
    def layout(components: int, channels: int) -> tuple[tuple[int, int] | None, ...]:
        return ((components, channels),)

    @classmethod
    def from_output(
        cls, parts: Sequence[Tensor], x_src: Tensor, raw_src: Tensor, *, shift: float, segment: float
    ) -> StraightPolicy:
        return cls(parts[0], x_src, raw_src, shift)

    def posterior_mean(self, x: Tensor, raw: Tensor) -> Tensor:
        x = working(x)
        return x - per_sample(self.sigma(raw), x) * working(self.lines).mean(dim=1)


class StraightHead(PolicyHead):
    """K copies of the projection."""

    layers: ClassVar[tuple[str, ...]] = ("lines",)

    def __init__(self, projection: nn.Linear, components: int, patch: int, channel_major: bool) -> None:
        super().__init__(patch, channel_major)
        self.lines = self._widened(projection, components, bias=True)

    @property
    def width(self) -> int:
        return self.lines.out_features

    def forward(self, tokens: Tensor) -> Tensor:
        self.take_embedding()
        return self.lines(tokens.to(self.lines.weight.dtype))


STRAIGHT = PolicyKind(
    name="straight",
    policy=StraightPolicy,
    head=StraightHead,
    words=Words("straight", "lines", "straight lines", "straight, {} lines"),
    published=PublishedNames("Straight", class_prefix="Straight"),
)
