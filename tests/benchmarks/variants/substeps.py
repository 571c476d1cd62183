"""Idea 10: substeps of second order, in training and in sampling."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from piflow_cli.core import reference
from piflow_cli.core.coefficients import SubstepTable, substep_table
from piflow_cli.core.policies.base import Policy
from piflow_cli.core.policies.gmflow import GMFlowPolicy
from piflow_cli.core.tensors import per_sample, working
from piflow_cli.core.timegrid import to_raw, to_sigma

from .pieces import wrap


def reaching_ahead(part: float) -> None:
    """Take the velocity of a substep so far into it: 1/2 is the midpoint rule, 0 is Euler's, as published."""

    def steps(policy: Policy, x: Tensor, table: SubstepTable) -> Iterator[tuple[Tensor, Tensor]]:
        for raw, change in zip(table.raw.unbind(1), table.change.unbind(1)):
            inside = part * change
            probe = x + policy.velocity(x, raw) * per_sample(inside, x)
            velocity = policy.velocity(probe, to_raw(to_sigma(raw, policy.shift) + inside, policy.shift))
            x = x + velocity * per_sample(change, x)
            yield velocity, x

    def rollout(policy: Policy, x: Tensor, raw_from: Tensor, raw_to: Tensor, *, substeps: int = 128) -> Tensor:
        *_, (_, end) = steps(policy, working(x), substep_table([raw_from, raw_to], policy.shift, substeps))
        return end

    def mean_velocity(policy: Policy, x: Tensor, raw_from: Tensor, raw_to: Tensor, *, substeps: int = 128) -> Tensor:
        x = working(x)
        table = substep_table([raw_from, raw_to], policy.shift, substeps)
        velocities = [velocity for velocity, _ in steps(policy, x, table)]
        return torch.stack([share * one for share, one in zip(_shares(table, x), velocities)]).sum(dim=0)

    wrap(reference, "rollout", lambda _: rollout)
    wrap(reference, "mean_velocity", lambda _: mean_velocity)
    # The kernels know no other substeps than Euler's.
    wrap(GMFlowPolicy, "fast_rollout", lambda _: None)


def _shares(table: SubstepTable, x: Tensor) -> Iterator[Tensor]:
    return (per_sample(share, x) for share in table.share.unbind(1))
