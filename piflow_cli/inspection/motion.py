"""The motion of a policy: its velocity along the rollout."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..sampling.trajectory import PolicyPath, times


class Motion(NamedTuple):
    """The motion along the states of one segment.

    ``speed`` (B, T): root mean square of the velocity over positions and channels. ``turn`` (B, T-1): angle in degrees
    between each velocity and the next. ``straightness`` (B,): distance from start to end over the length of the way, at
    most 1.
    """

    speed: Tensor
    turn: Tensor
    straightness: Tensor


def motion(path: PolicyPath) -> Motion:
    """Velocities of a policy at the states that it visits itself."""
    velocities = torch.stack(
        [path.policy.velocity(x, times(raw, x)).flatten(1) for raw, x in zip(path.raws, path.states)], 1
    )
    states = torch.stack([x.flatten(1) for x in (*path.states, path.end)], dim=1)
    return Motion(
        velocities.square().mean(dim=2).sqrt(), angle(velocities[:, :-1], velocities[:, 1:]), straightness(states)
    )


def angle(one: Tensor, other: Tensor) -> Tensor:
    """Degrees between vectors along the last axis.

    By the half-angle formula of Kahan, 2 atan2(|a - b|, |a + b|) of unit vectors: an arc cosine loses small angles.
    """
    one, other = (value / value.norm(dim=-1, keepdim=True).clamp(min=1e-30) for value in (one, other))
    return torch.rad2deg(2 * torch.atan2((one - other).norm(dim=-1), (one + other).norm(dim=-1)))


def straightness(states: Tensor) -> Tensor:
    """Distance over length (B,) of ways through states (B, T, D); 1 where nothing moves."""
    way = states.diff(dim=1).norm(dim=2).sum(dim=1)
    distance = (states[:, -1] - states[:, 0]).norm(dim=1)
    return torch.where(way > 0, distance / way.clamp(min=1e-30), torch.ones_like(way))
