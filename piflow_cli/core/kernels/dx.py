"""DX rollouts in closed form.

An Euler substep x <- (1 + rho) x - rho x_0(raw) with rho = dsigma / sigma is linear, and x_0(raw) = sum_n B_n(raw)
(x_s - sigma_s u_n) depends on time alone (pi-Flow, arXiv 2510.14974, section 3.1). A whole rollout therefore is

    x_dst = x + gain (x - x_s) + drift x_s - sigma_s sum_n beta_n u_n

with beta and alpha = 1 + gain from the products of the substeps, in float64, and drift = gain + sum beta, which is
zero on a grid, whose basis sums to one. The sum over n is one pass over the network's output. On a GPU it is a kernel,
with another one for its gradients; elsewhere they are autograd's.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ..coefficients import substep_table
from ..policies.base import SIGMA_FLOOR
from ..policies.dx import DXPolicy
from ..tensors import per_sample
from ..timegrid import to_sigma
from . import backend, switched_off
from .layout import LinearMap


def follows(policy: DXPolicy, x: Tensor) -> bool:
    """Whether the closed form follows ``policy``: always, unless kernels are switched off."""
    return not switched_off()


def rollout_through(policy: DXPolicy, x: Tensor, raws: list[Tensor], substeps: int) -> list[Tensor]:
    """States at the ends of the legs between ``raws``."""
    if (fused := _fused(x)) is not None:
        maps = fused.linear_map(policy, raws, substeps, averaged=False)
        return list(fused.applied(policy, x, maps, added=True).unbind(0))
    maps = linear_map(policy, raws, substeps, averaged=False)
    return [x + _apply(policy, x, maps.gain[:, leg], maps.beta[:, leg]) for leg in range(len(raws) - 1)]


def mean_velocity(policy: DXPolicy, x: Tensor, raws: list[Tensor], substeps: int, longest: float) -> Tensor:
    """Velocity averaged over sigma along a rollout from ``x`` at ``raws[0]`` to ``raws[1]``.

    ``longest`` is there for other rollouts: the closed form takes any interval.
    """
    if (fused := _fused(x)) is not None:
        maps = fused.linear_map(policy, raws, substeps, averaged=True)
        return fused.applied(policy, x, maps, added=False).squeeze(0)
    maps = linear_map(policy, raws, substeps, averaged=True)
    return _apply(policy, x, maps.gain[:, 0], maps.beta[:, 0])


def linear_map(policy: DXPolicy, raws: list[Tensor], substeps: int, *, averaged: bool) -> LinearMap:
    """x_dst - x of a rollout at the end of each leg, or the mean velocity of its one leg, in PyTorch on any device."""
    # Off the CPU the width is the bound that raw times in [0, 1] give: the longest rollout is not asked for.
    width = None if raws[0].device.type == "cpu" else substeps + len(raws)
    table = substep_table(raws, policy.shift, substeps, width)
    sigma = to_sigma(table.raw, policy.shift).clamp(min=SIGMA_FLOOR)
    step = torch.arange(table.raw.shape[1], device=sigma.device)
    within = step < table.ends.unsqueeze(2)
    rate = torch.where(within, (table.change / sigma).unsqueeze(1), 0)
    onwards = (1 + rate).flip(2).cumprod(dim=2).flip(2)
    after = torch.cat([onwards[..., 1:], torch.ones_like(onwards[..., :1])], dim=2)
    gain, beta = onwards[..., 0] - 1, -(rate * after) @ policy.basis(table.raw)
    if not averaged:
        return LinearMap(gain, beta)
    total = table.change.sum(dim=1, keepdim=True)
    local = table.ends == 1
    divisor = total.where(~local, 1)
    start = policy.sigma(raws[0]).unsqueeze(1)
    here = policy.basis(raws[0]).unsqueeze(1) / start.unsqueeze(2)
    gain = torch.where(local, 1 / start, gain / divisor)
    return LinearMap(gain, torch.where(local.unsqueeze(2), -here, beta / divisor.unsqueeze(2)))


def _fused(x: Tensor) -> ModuleType | None:
    """The kernels for the device of ``x``, if there are any."""
    if x.device.type != "cuda" or backend(x.device) is None:
        return None
    from . import dx_triton

    return dx_triton


def _apply(policy: DXPolicy, x: Tensor, gain: Tensor, beta: Tensor) -> Tensor:
    """gain (x - x_s) + (gain + sum beta) x_s - sigma_s sum_n beta_n u_n, (B, C, *S)."""
    x_src = policy.x_src.to(x.dtype)
    weights = (-policy.sigma_src.to(beta.device).unsqueeze(1) * beta).to(x.dtype)
    drift = gain + beta.sum(dim=1)
    moved = (weights.reshape(*weights.shape, *[1] * (x.ndim - 1)) * policy.grid).sum(dim=1)
    return moved + per_sample(gain, x) * (x - x_src) + per_sample(drift, x) * x_src
