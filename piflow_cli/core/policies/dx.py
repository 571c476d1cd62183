"""DX: x_0 as a function of time alone, read off a grid or a polynomial (pi-Flow, arXiv 2510.14974, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ..heads import PolicyHead, Projection, outputs_of
from ..tensors import per_sample, working
from ..validation import check_not_empty, check_positive, check_shape
from .base import SIGMA_FLOOR, Policy
from .kinds import PolicyKind, PublishedNames, Words

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..parameterisations.base import Affine


@dataclass(frozen=True, eq=False)
class DXPolicy(Policy):
    """A policy whose x_0 depends on raw time only.

    ``grid`` (B, N, C, *S): velocities as the network gives them, each an estimate of x_0 seen from the source. They
    stand at N even raw times from ``raw_src - segment`` (first) to ``raw_src`` (last), with straight lines between and
    constants outside. ``segment`` and ``shift`` belong to the policy: they stay as trained whatever the sampling NFE.
    Shapes that do not fit raise :class:`~piflow_cli.core.validation.PolicyError`.

    A segment that would end below raw time 0 ends there, with all its N points: the published policies do so, in the
    last segment of every student whose final step is shorter than the others.
    """

    outputs: ClassVar[tuple[str, ...]] = ("grid",)
    fast_rollout: ClassVar[str | None] = "dx"
    polynomial: ClassVar[bool] = False

    grid: Tensor
    x_src: Tensor
    raw_src: Tensor
    segment: float
    shift: float = 1.0

    def __post_init__(self) -> None:
        check_not_empty("grid", self.grid, 3)
        check_shape("x_src", self.x_src, (self.grid.shape[0], *self.grid.shape[2:]))
        check_shape("raw_src", self.raw_src, self.grid.shape[:1])
        check_positive("segment", self.segment)
        check_positive("shift", self.shift)

    @staticmethod
    def layout(components: int, channels: int) -> tuple[tuple[int, int] | None, ...]:
        return ((components, channels),)

    @classmethod
    def from_output(
        cls, parts: Sequence[Tensor], x_src: Tensor, raw_src: Tensor, *, shift: float, segment: float
    ) -> Self:
        return cls(parts[0], x_src, raw_src, segment, shift)

    @cached_property
    def length(self) -> Tensor:
        """Raw time (B,) float64 from the first of the N points to the source."""
        return self.raw_src.double().clamp(min=SIGMA_FLOOR, max=self.segment)

    @cached_property
    def estimates(self) -> Tensor:
        """The N estimates of x_0, (B, N, C, *S)."""
        grid = working(self.grid)
        return working(self.x_src).unsqueeze(1) - per_sample(self.sigma_src, grid) * grid

    def basis(self, raw: Tensor) -> Tensor:
        """Weights (B, ..., N) float64 of the estimates at raw times (B, ...)."""
        points = self.grid.shape[1]
        source = self.raw_src.to(device=raw.device, dtype=torch.float64).reshape(-1, *[1] * (raw.ndim - 1))
        elapsed = source - raw.double()
        index = torch.arange(points, device=raw.device, dtype=torch.float64)
        if self.polynomial:
            return elapsed.unsqueeze(-1) ** index
        length = self.length.to(raw.device).reshape(source.shape)
        position = ((1 - elapsed / length) * (points - 1)).clamp(0, points - 1)
        return (1 - (position.unsqueeze(-1) - index).abs()).clamp(min=0)

    def posterior_mean(self, x: Tensor, raw: Tensor) -> Tensor:
        """x_0 (B, C, *S) at raw times (B,); it does not depend on the state ``x``."""
        estimates = self.estimates
        with torch.autocast(estimates.device.type, enabled=False):
            return torch.einsum("bn,bn...->b...", self.basis(raw).to(estimates), estimates)


class DXPolynomialPolicy(DXPolicy):
    """A DX policy whose ``grid`` holds coefficients: x_0(raw) is the sum of (raw_src - raw)^i times the estimate i."""

    fast_rollout: ClassVar[str | None] = "dx"
    polynomial: ClassVar[bool] = True

    @classmethod
    def in_velocities(cls, parts: Sequence[Tensor], x_src: Tensor, affine: Affine) -> list[Tensor]:
        """As of other policies, but that the state is in the constant term: those of higher order start without it."""
        constant = super().in_velocities([parts[0][:, :1]], x_src, affine)[0]
        higher = affine._replace(skip=affine.skip * 0).velocity(working(parts[0][:, 1:]), working(x_src).unsqueeze(1))
        return [torch.cat([constant, higher], dim=1)]


class DXHead(PolicyHead):
    """Head of a DX policy: N copies of the projection and of its bias (pi-Flow, arXiv 2510.14974, section 3.1)."""

    layers: ClassVar[tuple[str, ...]] = ("grid",)

    def __init__(self, projection: Projection, components: int, patch: int, channel_major: bool) -> None:
        super().__init__(patch, channel_major)
        self.grid = self._widened(projection, components, bias=projection.bias is not None)

    @property
    def width(self) -> int:
        return outputs_of(self.grid)

    def published_names(self, projection: str) -> dict[str, str]:
        return {f"grid.{part}": f"{projection}.{part}" for part in nn.Module.state_dict(self.grid)}

    def forward(self, tokens: Tensor) -> Tensor:
        self.take_embedding()
        return self.grid(tokens.to(self.grid.weight.dtype))


class DXPolynomialHead(DXHead):
    """Head of a DX polynomial: its constant term starts as the projection, the others at zero, as published."""

    def __init__(self, projection: Projection, components: int, patch: int, channel_major: bool) -> None:
        super().__init__(projection, components, patch, channel_major)
        with torch.no_grad():
            for rows in self.grid.parameters():
                rows.unflatten(0, (1 if channel_major else patch, components, -1))[:, 1:].zero_()


DX = PolicyKind(
    name="dx",
    policy=DXPolicy,
    head=DXHead,
    words=Words("DX", "points", "x_0 at even times", "DX, {} points, linear between them", "DX never does"),
    published=PublishedNames("DX", class_prefix=None, scheduler="PiflowScheduler"),
    own_segment=True,
    anatomy="piflow_cli.inspection.kinds.dx:ANATOMY",
)

DX_POLYNOMIAL = PolicyKind(
    name="dx-poly",
    policy=DXPolynomialPolicy,
    head=DXPolynomialHead,
    words=Words("DX polynomial", "terms", "a polynomial in time", "DX, a polynomial of {} terms", "DX never does"),
    published=PublishedNames("DX", mode="polynomial", class_prefix=None),
    own_segment=True,
    anatomy="piflow_cli.inspection.kinds.dx:ANATOMY",
)
