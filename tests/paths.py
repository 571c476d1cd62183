"""Paths of policies that are built by hand: one network evaluation, without the network."""

from __future__ import annotations

from piflow_cli.core.policies.base import Policy
from piflow_cli.core.rollout import rollout, rollout_through
from piflow_cli.sampling.trajectory import PolicyPath, times


def path_of(policy: Policy, raw_end: float = 0.0, points: int = 8, substeps: int = 128) -> PolicyPath:
    """What :func:`piflow_cli.sampling.trajectory.walk` yields for this policy; its samples share one source time."""
    upper, x = float(policy.raw_src[0]), policy.x_src
    raws = tuple(upper - (upper - raw_end) * part / points for part in range(points))
    states = [x, *rollout_through(policy, x, [times(raw, x) for raw in raws], substeps=substeps)]
    return PolicyPath(
        0, policy, raws, states, raw_end, rollout(policy, x, times(upper, x), times(raw_end, x), substeps=substeps)
    )
