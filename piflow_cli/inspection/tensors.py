"""Parts of policies (fewer positions, or another precision), and numbers of single samples.

Positions do not see each other, so a part behaves as in the whole. Numbers of single samples are kept until all batches are in,
so that a report does not depend on how it was batched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, prod
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..core.policies.base import Policy
from ..core.policies.components import ComponentPolicy
from ..core.policies.dx import DXPolicy
from ..core.policies.gmflow import GMFlowPolicy
from ..core.policies.momentum import MomentumPolicy
from ..errors import UsageError

Numbers = TypeVar("Numbers", bound=NamedTuple)
MOST_POSITIONS = 2048


def stride(batch: int, space: tuple[int, ...]) -> int:
    """Every how many-th row and column is kept: the smallest odd number that leaves at most MOST_POSITIONS in a batch.

    Odd, so that every place within a patch of two comes up. Where even one position a sample is too many, one stays.
    """
    step = 1
    while batch * prod(ceil(side / step) for side in space) > MOST_POSITIONS and step < max(space):
        step += 2
    return step


def thin(policy: Policy) -> Policy:
    """The policy of the positions that :func:`stride` leaves, as views."""
    space = tuple(policy.x_src.shape[2:])
    kept = (..., *[slice(None, None, stride(policy.x_src.shape[0], space))] * len(space))
    return _changed(policy, lambda value: value[kept])


def position_of(policy: Policy, sample: int, place: tuple[int, ...]) -> Policy:
    """The policy of one sample at one position: a batch of one, every spatial axis of length one."""
    spot = (..., *(slice(index, index + 1) for index in place))
    one = slice(sample, sample + 1)
    return _changed(policy, lambda value: value[one][spot], lambda value: value[one])


def repeated(policy: Policy, times: int) -> Policy:
    """The policy of a single sample for a batch of ``times``, as views."""

    def expand(value: Tensor) -> Tensor:
        return value.expand(times, *value.shape[1:])

    return _changed(policy, expand, expand)


def in_float64(policy: Policy) -> Policy:
    """The policy on the CPU in double precision."""

    def exact(value: Tensor) -> Tensor:
        return value.to("cpu", torch.float64)

    return _changed(policy, exact, exact)


def unknown(policy: Policy) -> UsageError:
    """What to say of a policy of another kind than those that are looked into."""
    return UsageError(f"inspect-policy looks into GM, DX and momentum policies, and not into a {type(policy).__name__}", "piflow eval measures any student")


def _changed(
    policy: Policy, spatial: Callable[[Tensor], Tensor], batch: Callable[[Tensor], Tensor] = lambda value: value
) -> Policy:
    """``spatial`` applied to every tensor (B, ..., *S) of a policy, and ``batch`` to every (B,)."""
    changes = {"x_src": spatial(policy.x_src), "raw_src": batch(policy.raw_src)}
    if isinstance(policy, ComponentPolicy):
        changes |= {"means": spatial(policy.means), "logweights": spatial(policy.logweights)}
    if isinstance(policy, GMFlowPolicy):
        changes |= {"logstds": batch(policy.logstds.reshape(-1))}
    elif isinstance(policy, MomentumPolicy):
        changes |= {"loggammas": spatial(policy.loggammas)}
    elif isinstance(policy, DXPolicy):
        changes |= {"grid": spatial(policy.grid)}
    else:
        raise unknown(policy)
    return replace(policy, **changes)


def root_mean(squares: Tensor) -> list[float]:
    """Root of the mean over samples (B, ...) of mean squares."""
    return squares.mean(dim=0).sqrt().tolist()


def mean_square(value: Tensor) -> Tensor:
    """Mean squares (B,) over positions and channels of ``value`` (B, ...)."""
    return value.flatten(1).square().mean(dim=1)


def to_host(numbers: Numbers) -> Numbers:
    """The same numbers in host memory."""
    return type(numbers)(*(None if value is None else value.cpu() for value in numbers))


def joined(batches: Sequence[Numbers]) -> Numbers:
    """Tuples of tensors with the samples first, end to end; what is None in one is None in all."""
    first = batches[0]
    return type(first)(*(None if column[0] is None else torch.cat(column) for column in zip(*batches)))
