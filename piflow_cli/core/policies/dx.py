"""DX: x_0 as a function of time alone, read off a grid or a polynomial (pi-Flow, arXiv 2510.14974, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..tensors import per_sample, working
from ..validation import check_not_empty, check_positive, check_shape
from .base import SIGMA_FLOOR, Policy


@dataclass(frozen=True, eq=False)
class DXPolicy(Policy):
    """A policy whose x_0 depends on raw time only.

    ``grid`` (B, N, C, *S): velocities as the network gives them, each an estimate of x_0 seen from the source. With
    ``polynomial`` False they stand at N even raw times from ``raw_src - segment`` (first) to ``raw_src`` (last), with
    straight lines between and constants outside; with ``polynomial`` True they are coefficients of powers of raw_src -
    raw. ``segment`` and ``shift`` belong to the policy: they stay as trained whatever the sampling NFE. Shapes that do
    not fit raise :class:`~piflow_cli.core.validation.PolicyError`.

    A segment that would end below raw time 0 ends there, with all its N points: the published policies do so, in the
    last segment of every student whose final step is shorter than the others.
    """

    grid: Tensor
    x_src: Tensor
    raw_src: Tensor
    segment: float
    shift: float = 1.0
    polynomial: bool = False

    def __post_init__(self) -> None:
        check_not_empty("grid", self.grid, 3)
        check_shape("x_src", self.x_src, (self.grid.shape[0], *self.grid.shape[2:]))
        check_shape("raw_src", self.raw_src, self.grid.shape[:1])
        check_positive("segment", self.segment)
        check_positive("shift", self.shift)

    def detach(self) -> DXPolicy:
        return replace(self, grid=self.grid.detach(), x_src=self.x_src.detach())

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
        """x_0 (B, C, *S) at raw times (B,); the state ``x`` has no say in it."""
        estimates = self.estimates
        with torch.autocast(estimates.device.type, enabled=False):
            return torch.einsum("bn,bn...->b...", self.basis(raw).to(estimates), estimates)
