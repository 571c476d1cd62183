"""Parts of policies (fewer positions, or another precision), and numbers of single samples.

Positions do not see each other, so a part behaves as in the whole. Numbers of single samples are kept until all batches
are in, so that a report does not depend on how it was batched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import ceil, prod
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..core.policies.base import Policy

Numbers = TypeVar("Numbers", bound=NamedTuple)
T = TypeVar("T")
MOST_POSITIONS = 2048


def stride(batch: int, space: tuple[int, ...]) -> int:
    """The step between rows and columns that are kept: the smallest odd one that leaves at most MOST_POSITIONS.

    It is odd so that every place within a patch of two comes up. Where even one position for each sample is too many,
    one stays.
    """
    step = 1
    while batch * prod(ceil(side / step) for side in space) > MOST_POSITIONS and step < max(space):
        step += 2
    return step


def middle(frames: int) -> int:
    """The place of the frame that stands for a video: its middle, the later one of two."""
    return frames // 2


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


def in_float64(policy: Policy) -> Policy:
    """The policy on the CPU in double precision."""

    def exact(value: Tensor) -> Tensor:
        return value.to("cpu", torch.float64)

    return _changed(policy, exact, exact)


def _changed(
    policy: Policy, spatial: Callable[[Tensor], Tensor], batch: Callable[[Tensor], Tensor] = lambda value: value
) -> Policy:
    """``spatial`` applied to every tensor (B, ..., *S) of a policy, and ``batch`` to every (B,)."""
    changes = {"x_src": spatial(policy.x_src), "raw_src": batch(policy.raw_src)}
    # An output without a place in the layout is one number for each sample.
    for name, part in zip(policy.outputs, policy.layout(1, 1) if policy.outputs else ()):
        value = getattr(policy, name)
        changes[name] = batch(value.reshape(-1)) if part is None else spatial(value)
    return replace(policy, **changes)


def root_mean(squares: Tensor) -> list[float]:
    """Root of the mean over samples (B, ...) of mean squares."""
    return squares.mean(dim=0).sqrt().tolist()


def mean_square(value: Tensor) -> Tensor:
    """Mean squares (B,) over positions and channels of ``value`` (B, ...)."""
    return value.flatten(1).square().mean(dim=1)


def to_host(numbers: Numbers) -> Numbers:
    """The same numbers in host memory."""
    return type(numbers)(*(value.cpu() if isinstance(value, Tensor) else None for value in numbers))


def present(values: Iterable[T | None]) -> list[T]:
    """Those of ``values`` that are not None: all, or none at all."""
    return [value for value in values if value is not None]


def joined(batches: Sequence[Numbers]) -> Numbers:
    """Tuples of tensors (B, ...), joined along the samples; a None in one is a None in all."""
    first = batches[0]
    return type(first)(*(None if column[0] is None else torch.cat(column) for column in zip(*batches)))
