"""How a policy runs: its velocity along the rollout, and where the mixture changes its mind."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core.policies.gmflow import GMFlowPolicy
from ..core.rollout import rollout_through
from ..trajectory import PolicyPath, times
from .composition import entropy
from .positions import thin

SWITCH_TIMES = 33


class Course(NamedTuple):
    """Along the states of one segment: ``speed`` (B, T), the root mean square of the velocity over positions and channels;
    ``turn`` (B, T-1), the angle in degrees between each velocity and the next; ``straightness`` (B,), the distance from
    start to end over the length of the way, at most 1.
    """

    speed: Tensor
    turn: Tensor
    straightness: Tensor


class Switching(NamedTuple):
    """The posterior along one segment, at SWITCH_TIMES even raw times from source to end, over the positions of
    :func:`~piflow_cli.inspection.positions.thin`.

    ``effective`` (B, T): mean over positions of exp of the entropy of the posterior weights; ``moved`` (B, T-1): share of
    positions whose heaviest component is another than one time before; ``switches`` (B,): such changes per position;
    ``shift`` (B,): largest change of any weight between source and end, mean over positions.
    """

    effective: Tensor
    moved: Tensor
    switches: Tensor
    shift: Tensor


def course(path: PolicyPath) -> Course:
    """Velocities of a policy at the states it visits itself."""
    velocities = torch.stack([path.policy.velocity(x, times(raw, x)).flatten(1) for raw, x in zip(path.raws, path.states)], 1)
    states = torch.stack([x.flatten(1) for x in (*path.states, path.end)], dim=1)
    return Course(velocities.square().mean(dim=2).sqrt(), angle(velocities[:, :-1], velocities[:, 1:]), straightness(states))


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


def switching(path: PolicyPath, substeps: int) -> Switching:
    """The posterior weights of a GM policy along its own rollout."""
    policy = thin(path.policy)
    assert isinstance(policy, GMFlowPolicy), "only mixtures have components"
    raws = torch.linspace(path.raws[0], path.raw_end, SWITCH_TIMES, dtype=torch.float64).tolist()
    x = policy.x_src.float()
    states = [x, *rollout_through(policy, x, [times(raw, x) for raw in raws], substeps=substeps)]
    effective, moved, first, before = [], [], None, None
    for raw, state in zip(raws, states):
        weights = policy.posterior(state, times(raw, x)).logweights.exp().squeeze(2)
        effective.append(entropy(weights, 1).exp().flatten(1).mean(dim=1))
        heaviest = weights.argmax(dim=1)
        if before is None:
            first = weights
        else:
            moved.append((heaviest != before).flatten(1).float().mean(dim=1))
        before = heaviest
    changes = torch.stack(moved, dim=1)
    shift = (weights - first).abs().amax(dim=1).flatten(1).mean(dim=1)
    return Switching(torch.stack(effective, dim=1), changes, changes.sum(dim=1), shift)
