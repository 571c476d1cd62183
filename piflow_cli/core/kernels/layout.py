"""What the backends share: the dtype they work in, and the shapes of what they return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

KEPT_AXES = 3  # of space, that kernels step along


class Gradients(NamedTuple):
    """Gradients of an integral of velocities, in the shapes and dtypes of the policy's tensors and of the state."""

    means: Tensor
    logweights: Tensor
    logstds: Tensor
    x: Tensor


class LinearMap(NamedTuple):
    """A DX rollout as a linear map: gain (B, legs) of the state, beta (B, legs, N) of the estimates of x_0, float64.

    They give x_dst - x at the end of each leg, or the mean velocity of a leg.
    """

    gain: Tensor
    beta: Tensor


def working_dtype(output: Tensor, x: Tensor) -> torch.dtype:
    """float32, or float64 where a network's output or the states come as float64."""
    return torch.promote_types(torch.promote_types(output.dtype, x.dtype), torch.float32)


def marks_of(dropped: Tensor | None) -> Tensor | None:
    """The marks of dropped components (B, K) as bytes, which kernels read; None where there are none."""
    return None if dropped is None else dropped.contiguous().view(torch.uint8)


def flatten_positions(value: Tensor, space: int) -> Tensor:
    """All axes from ``space`` on as one, which is of length one where there are none; a view where strides allow."""
    return value.reshape(*value.shape[:space], value.shape[space:].numel())


def collapsible(values: Sequence[Tensor], spaces: Sequence[int]) -> bool:
    """Whether :func:`collapse_positions` can take ``values``."""
    return len(_merged(values, spaces)) <= KEPT_AXES


def collapse_positions(values: Sequence[Tensor], spaces: Sequence[int]) -> tuple[list[int], list[Tensor]]:
    """The same tensors with their axes of space, from ``spaces`` on, as exactly three: (sizes, views).

    Axes that follow each other in the memory of all ``values`` become one; at most three may remain.
    """
    axes = _merged(values, spaces)
    assert len(axes) <= KEPT_AXES, "kernels have no strides for more axes of space"
    axes = [(1, (0,) * len(values))] * (KEPT_AXES - len(axes)) + axes
    sizes = [size for size, _ in axes]
    views = [
        value.as_strided(
            (*value.shape[:space], *sizes), (*value.stride()[:space], *(strides[index] for _, strides in axes))
        )
        for index, (value, space) in enumerate(zip(values, spaces))
    ]
    return sizes, views


def _merged(values: Sequence[Tensor], spaces: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Size, and stride in each of ``values``, of the axes that remain where those that can become one do."""
    axes: list[tuple[int, tuple[int, ...]]] = []
    shape = values[0].shape[spaces[0] :]
    for size, *strides in zip(shape, *(value.stride()[space:] for value, space in zip(values, spaces))):
        if axes and all(outer == size * inner for outer, inner in zip(axes[-1][1], strides)):
            axes[-1] = (axes[-1][0] * size, tuple(strides))
        elif size > 1:
            axes.append((size, tuple(strides)))
    return axes
