"""The front door to integration: follow a policy, or average its velocity, between two raw times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .policies import Policy
from .tensors import per_sample, working
from .timegrid import substep_count, to_sigma


class SubstepTable(NamedTuple):
    """Time-only facts of a rollout, float64: raw times of the substeps and their change of sigma, both (B, steps).

    Samples with fewer substeps than the longest are padded with steps of length zero.
    """

    raw: Tensor
    change: Tensor


def substep_table(raw_from: Tensor, raw_to: Tensor, shift: float, substeps: int) -> SubstepTable:
    """Equal Euler steps in raw time from ``raw_from`` (B,) down to ``raw_to`` (B,), each mapped through the shift."""
    raw_from, raw_to = raw_from.double(), raw_to.double()
    count = substep_count(raw_from - raw_to, substeps)
    index = torch.arange(int(count.max()) + 1, device=raw_from.device).minimum(count.unsqueeze(1))
    raw = raw_from.unsqueeze(1) + (raw_to - raw_from).unsqueeze(1) * (index / count.unsqueeze(1))
    return SubstepTable(raw[:, :-1], to_sigma(raw, shift).diff(dim=1))


def rollout(policy: Policy, x: Tensor, raw_from: Tensor, raw_to: Tensor, *, substeps: int = 128) -> Tensor:
    """Follow the policy from states ``x`` (B, C, *S) at ``raw_from`` (B,) down to ``raw_to`` (B,).

    Each sample takes max(1, round(substeps * interval)) Euler steps (pi-Flow, arXiv 2510.14974, section 3). Returns states
    (B, C, *S), float32 (float64 for float64 input); gradients reach the policy's parameters and ``x``.
    """
    x = working(x)
    table = substep_table(raw_from, raw_to, policy.shift, substeps)
    for raw, change in zip(table.raw.unbind(1), table.change.unbind(1)):
        x = x + policy.velocity(x, raw) * per_sample(change, x)
    return x


def rollout_through(policy: Policy, x: Tensor, raws: Sequence[Tensor], *, substeps: int = 128) -> list[Tensor]:
    """States at each of ``raws[1:]`` on the way from ``x`` at ``raws[0]``; every leg takes its own substeps."""
    states = []
    for raw_from, raw_to in zip(raws, raws[1:]):
        x = rollout(policy, x, raw_from, raw_to, substeps=substeps)
        states.append(x)
    return states


def mean_velocity(policy: Policy, x: Tensor, raw_from: Tensor, raw_to: Tensor, *, substeps: int = 128) -> Tensor:
    """Displacement over change of sigma of a rollout from ``x`` at ``raw_from`` (B,) to ``raw_to`` (B,), (B, C, *S).

    An interval of fewer than two substeps, of length zero too, gives the velocity at ``raw_from``. The velocities are
    averaged rather than the displacement divided: for short intervals float32 would lose the difference.
    """
    x = working(x)
    table = substep_table(raw_from, raw_to, policy.shift, substeps)
    total = table.change.sum(dim=1, keepdim=True)
    local = torch.zeros_like(table.change)
    local[:, 0] = 1
    share = torch.where(table.raw[:, -1:] < table.raw[:, :1], table.change / total.clamp(max=-torch.finfo(total.dtype).tiny), local)
    mean = torch.zeros_like(x)
    for raw, change, weight in zip(table.raw.unbind(1), table.change.unbind(1), share.unbind(1)):
        velocity = policy.velocity(x, raw)
        mean = mean + velocity * per_sample(weight, x)
        x = x + velocity * per_sample(change, x)
    return mean
