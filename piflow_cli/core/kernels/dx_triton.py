"""DX rollouts by Triton kernels, differentiable in the grid and both states.

Two launches: one program per sample computes the coefficients of the linear map in float64, where PyTorch would launch
some thirty; one pass over grid and states applies it. A third one is backward. Tensors are read where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..policies.dx import DXPolicy
from .dx_triton_kernels import adjoint_kernel, apply_kernel, map_kernel
from .layout import LinearMap, collapse_positions, collapsible, working_dtype
from .triton_tables import times_of

BLOCK, WARPS = 512, 4  # elements and warps of a program


def linear_map(policy: DXPolicy, raws: list[Tensor], substeps: int, *, averaged: bool) -> LinearMap:
    """The same as :func:`piflow_cli.core.kernels.dx.linear_map`, without asking the device for a number."""
    batch, points = policy.grid.shape[:2]
    device, legs = policy.grid.device, len(raws) - 1
    times, strides = times_of(policy.raw_src, raws, device)
    gain = torch.empty(batch, legs, device=device, dtype=torch.float64)
    beta = torch.empty(batch, legs, points, device=device, dtype=torch.float64)
    with torch.cuda.device_of(gain):
        map_kernel[(batch,)](
            *times, gain, beta, *strides, substeps, policy.shift, policy.segment,
            LEGS=legs, AVERAGED=averaged, POLYNOMIAL=policy.polynomial, N=points, NP=triton.next_power_of_2(points),
            num_warps=1,
        )  # fmt: skip
    return LinearMap(gain, beta)


def applied(policy: DXPolicy, x: Tensor, maps: LinearMap, *, added: bool) -> Tensor:
    """What ``maps`` make of states ``x`` (B, C, *S), (legs, B, C, *S); ``added``: to ``x`` itself."""
    return _Applied.apply(
        _Map(*maps, policy.raw_src.to(x.device, torch.float64), policy.shift, added), policy.grid, x, policy.x_src
    )


class _Map(NamedTuple):
    """A linear map, and what else makes weights of it: raw times of the source (B,), shift, and whether x is added."""

    gain: Tensor
    beta: Tensor
    raw_src: Tensor
    shift: float
    added: bool


class _Applied(torch.autograd.Function):
    """States or mean velocities (legs, B, C, *S): a map of grid, state and source."""

    @staticmethod
    def forward(ctx, of: _Map, grid: Tensor, x: Tensor, x_src: Tensor):
        ctx.of = of
        # Its gradient will lie as it does; the grid itself need not be kept.
        ctx.grid, ctx.dtypes = torch.empty_like(grid, device="meta"), (x.dtype, x_src.dtype)
        out = x.new_empty(of.gain.shape[1], *x.shape, dtype=working_dtype(grid, x))
        tensors = grid, x, x_src
        if not collapsible(tensors, (2, 1, 1)):
            tensors = [value.contiguous() for value in tensors]
        space, views = collapse_positions(tensors, (2, 1, 1))
        _launch(apply_kernel, of, (*views, of.gain, of.beta, of.raw_src, out), out, space, views)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        of, kept, grad = ctx.of, ctx.grid, grad.contiguous()
        kept = kept if collapsible([kept], (2,)) else kept.contiguous()
        of_grid = torch.empty_strided(kept.shape, kept.stride(), dtype=kept.dtype, device=grad.device)
        of_x, of_source = (
            grad.new_empty(grad.shape[1:], dtype=dtype) if wanted else None
            for dtype, wanted in zip(ctx.dtypes, ctx.needs_input_grad[2:], strict=True)
        )
        space, views = collapse_positions([of_grid], (2,))
        results = [grad if value is None else value for value in (of_x, of_source)]
        wanted = {"OF_X": of_x is not None, "OF_SOURCE": of_source is not None}
        _launch(
            adjoint_kernel, of, (grad, of.gain, of.beta, of.raw_src, *views, *results), grad, space, views, **wanted
        )
        return None, of_grid, of_x, of_source


def _launch(
    kernel, of: _Map, tensors: Sequence[Tensor], like: Tensor, space: list[int], views: list[Tensor], **flags: bool
) -> None:
    """Launch over blocks of elements of each sample; ``like`` (legs, B, C, *S)."""
    legs, batch, elements = like.shape[0], like.shape[1], like.shape[2:].numel()
    blocks = triton.cdiv(elements, BLOCK)
    with torch.cuda.device_of(like):
        kernel[(batch * blocks,)](
            *tensors, batch, elements, blocks, space[1], space[2], *(view.stride() for view in views),
            of.raw_src.stride(0), of.shift, LEGS=legs, N=of.beta.shape[2], ADDED=of.added, **flags, BLOCK=BLOCK,
            num_warps=WARPS,
        )  # fmt: skip
