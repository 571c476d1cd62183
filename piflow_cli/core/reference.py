"""Rollouts as the plain loop over policy velocities; every fused path is compared against them.

Policies whose mean velocity has a closed form, as momentum has (ArcFlow, arXiv 2602.09014), take no loop.

Any policy, device, rank of space and floating dtype; gradients are autograd's. The functions mirror those of
:mod:`piflow_cli.core.rollout`, which is the front door.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .coefficients import substep_table
from .policies.base import Policy
from .tensors import per_sample, working
from .timegrid import substep_count, to_sigma


def rollout(policy: Policy, x: Tensor, raw_from: Tensor, raw_to: Tensor, *, substeps: int = 128) -> Tensor:
    """Euler steps along the policy's velocity from ``x`` (B, C, *S) at ``raw_from`` (B,) down to ``raw_to`` (B,)."""
    x = working(x)
    if policy.exact:
        change = to_sigma(raw_to.double(), policy.shift) - to_sigma(raw_from.double(), policy.shift)
        return x + policy.mean_velocity(raw_from, raw_to) * per_sample(change, x)
    table = substep_table([raw_from, raw_to], policy.shift, substeps)
    for raw, change in zip(table.raw.unbind(1), table.change.unbind(1)):
        x = x + policy.velocity(x, raw) * per_sample(change, x)
    return x


def rollout_through(policy: Policy, x: Tensor, raws: Sequence[Tensor], *, substeps: int = 128) -> list[Tensor]:
    """States at each of ``raws[1:]`` on the way from ``x`` at ``raws[0]``."""
    states = []
    for raw_from, raw_to in pairwise(raws):
        x = rollout(policy, x, raw_from, raw_to, substeps=substeps)
        states.append(x)
    return states


def mean_velocity(policy: Policy, x: Tensor, raw_from: Tensor, raw_to: Tensor, *, substeps: int = 128) -> Tensor:
    """Average over sigma of the velocities of a rollout from ``x`` at ``raw_from`` (B,) to ``raw_to`` (B,), (B, C, *S).

    Velocities are averaged rather than the displacement divided: for short intervals float32 would lose the difference.
    """
    x = working(x)
    if policy.exact:
        local = substep_count(raw_from - raw_to, substeps) < 2
        return policy.mean_velocity(raw_from, torch.where(local, raw_from, raw_to))
    table = substep_table([raw_from, raw_to], policy.shift, substeps)
    mean = torch.zeros_like(x)
    for raw, change, share in zip(table.raw.unbind(1), table.change.unbind(1), table.share.unbind(1)):
        velocity = policy.velocity(x, raw)
        mean = mean + velocity * per_sample(share, x)
        x = x + velocity * per_sample(change, x)
    return mean
