"""A slice at one position and one channel: the density of x_0, and the velocity field around a state."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.policies.base import Policy
from ..core.rollout import rollout_through
from ..sampling.trajectory import PolicyPath, times
from .kinds.anatomy import anatomy_of
from .request import Position
from .tensors import middle, position_of

SLICE_TIMES = 49
SLICE_VALUES = 97
NEIGHBOURS = 9
MARGIN = 0.15


@dataclass(frozen=True)
class Slice:
    """One channel at one position of one sample, over T raw times and V values.

    raws (T,), values (V,); ``velocity`` (V, T): along the channel, the others as the rollout has them, NaN at sigma 0,
    where there is none; ``density`` (V, T) of x_0 under the posterior of a GM policy at the rollout's states, None for
    DX, which has no density; ``estimate`` (T,): x_0 there; ``state`` (T,): the rollout; ``neighbours`` (NEIGHBOURS, T):
    rollouts that start beside it.
    """

    position: Position
    raws: Tensor
    values: Tensor
    velocity: Tensor
    density: Tensor | None
    estimate: Tensor
    state: Tensor
    neighbours: Tensor


def slice_of(path: PolicyPath, position: Position, substeps: int) -> Slice:
    """The slice of the first sample of a segment."""
    frame = map(middle, path.policy.x_src.shape[2:-2])
    policy = position_of(path.policy, 0, (*frame, position.y, position.x))
    density = anatomy_of(path.policy).density
    x, axis = policy.x_src.float(), position.axis
    raws = torch.linspace(path.raws[0], path.raw_end, SLICE_TIMES, dtype=torch.float64).tolist()

    def follow(who: Policy, start: Tensor) -> list[Tensor]:
        return [start, *rollout_through(who, start, [times(raw, start) for raw in raws], substeps=substeps)]

    states = follow(policy, x)
    estimates = [policy.posterior_mean(state, times(raw, state)) for raw, state in zip(raws, states)]
    values = _values([value[0, axis].item() for value in (*states, *estimates)])

    beside = x.expand(NEIGHBOURS, *x.shape[1:]).clone()
    beside[:, axis] = _column(torch.linspace(float(values[0]), float(values[-1]), NEIGHBOURS), x)
    near = follow(policy.repeated(NEIGHBOURS), beside)

    many = policy.repeated(len(values))
    velocities = []
    for raw, state in zip(raws, states):
        line = state.expand(len(values), *state.shape[1:]).clone()
        line[:, axis] = _column(values, state)
        velocity = many.velocity(line, times(raw, line))[:, axis].flatten()
        velocities.append(velocity if raw > 0 else torch.full_like(velocity, torch.nan))
    return Slice(
        position=position,
        raws=torch.tensor(raws),
        values=values,
        velocity=torch.stack(velocities, dim=1).cpu(),
        density=None if density is None else density(policy, states, raws, values, axis),
        estimate=torch.stack([value[0, axis].flatten()[0] for value in estimates]).cpu(),
        state=torch.stack([value[0, axis].flatten()[0] for value in states]).cpu(),
        neighbours=torch.stack([value[:, axis].flatten() for value in near], dim=1).cpu(),
    )


def _values(seen: list[float]) -> Tensor:
    """Even values over all that were seen, with a margin."""
    low, high = min(seen), max(seen)
    margin = MARGIN * max(high - low, 1e-3)
    return torch.linspace(low - margin, high + margin, SLICE_VALUES)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).reshape(-1, *[1] * (like.ndim - 2))
