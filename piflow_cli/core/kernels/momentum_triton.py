"""Momentum rollouts by Triton kernels, differentiable in what the network gives and in the state.

One launch forward, whatever the number of legs, and one backward. Tensors are read where they lie; times are turned
into rates by each program for itself, in float64, so that no table is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..policies.momentum import MomentumPolicy
from .layout import collapse_positions, collapsible, marks_of, working_dtype
from .momentum_triton_kernels import momentum_adjoint_kernel, momentum_kernel
from .triton_tables import times_of

ELEMENTS, WARPS = 512, 4  # entries of a state and warps of a program
FEWEST_POSITIONS = 16  # of a program
SPACES = (3, 3, 3, 2)  # the first axis of space of means, log-weights, log-gammas and a state


def followed(policy: MomentumPolicy, x: Tensor, raws: list[Tensor], substeps: int, *, added: bool) -> Tensor:
    """States at the ends of the legs between ``raws``, (legs, B, C, *S); unless ``added``, the mean velocity of a leg.

    Gradients are those of a single leg: a rollout of several that wants them chains them.
    """
    times, strides = times_of(policy.raw_src, raws, x.device)
    of = _Way(times, strides, marks_of(policy.dropped), substeps, policy.shift, added)
    return _Momentum.apply(of, policy.means, policy.logweights, policy.loggammas, x)


class _Way(NamedTuple):
    """Where a rollout goes: raw times and their strides, marks of dropped components (B, K), and how it is answered."""

    times: tuple[Tensor, ...]
    strides: tuple[int, ...]
    dropped: Tensor | None
    substeps: int
    shift: float
    added: bool

    @property
    def legs(self) -> int:
        return self.times[2].shape[0]


class _Momentum(torch.autograd.Function):
    """States or a mean velocity (legs, B, C, *S) of means, log-weights, log-gammas and a state."""

    @staticmethod
    def forward(ctx, of: _Way, means: Tensor, logweights: Tensor, loggammas: Tensor, x: Tensor):
        ctx.of, ctx.dtype = of, x.dtype
        ctx.save_for_backward(means, logweights, loggammas)
        out = x.new_empty(of.legs, *x.shape, dtype=working_dtype(means, x))
        tensors = _addressable((means, logweights, loggammas, x), SPACES)
        _launch(momentum_kernel, of, tensors, SPACES, out, LEGS=of.legs)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        of, inputs, grad = ctx.of, ctx.saved_tensors, grad.contiguous()
        assert of.legs == 1, "legs are chained where gradients are wanted"
        found = [None, None, None]
        if any(ctx.needs_input_grad[1:4]):
            inputs = _addressable(inputs, SPACES[:3])
            found = [torch.empty_like(value) for value in inputs]
            _launch(momentum_adjoint_kernel, of, (*inputs, *found), SPACES[:3] * 2, grad)
        return None, *found, grad.squeeze(0).to(ctx.dtype) if of.added else None


def _addressable(tensors: Sequence[Tensor], spaces: Sequence[int]) -> Sequence[Tensor]:
    """The same tensors, copied only where space has more axes than the kernels have strides for."""
    return tensors if collapsible(tensors, spaces) else [value.contiguous() for value in tensors]


def program_sizes(components: int, channels: int) -> dict[str, int]:
    """Compile-time sizes of a program: components, channels, these as a power of two, and positions."""
    wide = triton.next_power_of_2(channels)
    return {"K": components, "C": channels, "CP": wide, "BLOCK": max(FEWEST_POSITIONS, ELEMENTS // wide)}


def _launch(
    kernel, of: _Way, tensors: Sequence[Tensor], spaces: Sequence[int], state: Tensor, **constants: int
) -> None:
    """Launch over blocks of positions of each sample; of all tensors ``state`` (legs, B, C, *S) is contiguous."""
    means, (batch, positions) = tensors[0], (state.shape[1], state.shape[3:].numel())
    space, views = collapse_positions(tensors, spaces)
    sizes = program_sizes(*means.shape[1:3])
    blocks = triton.cdiv(positions, sizes["BLOCK"])
    with torch.cuda.device_of(state):
        kernel[(batch * blocks,)](
            *views, means if of.dropped is None else of.dropped, *of.times, state,
            batch, positions, blocks, space[1], space[2], *(view.stride() for view in views), *of.strides,
            of.substeps, of.shift, ADDED=of.added, DROPPED=of.dropped is not None, **constants, **sizes,
            num_warps=WARPS,
        )  # fmt: skip
