"""GM rollouts by Triton kernels: tables, launches and the memory they write to.

Three launches at most: one program per sample fills the coefficient table in float64 (the equations and letters of
:mod:`piflow_cli.core.coefficients`); the forward kernel reads means, log-weights and states once and writes each
wanted state once; the backward kernel walks the rollout again, keeps the states of the path in a scratch buffer, and
walks back with the adjoint. Tensors are read where they lie, whatever their strides. Nothing is asked of the device:
the table has as many columns as raw times in [0, 1] can need.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..policies.gmflow import GMFlowPolicy
from .gm_triton_kernels import backward_kernel, forward_kernel
from .layout import Gradients, collapse_positions, collapsible, marks_of, working_dtype
from .triton_passes import without_coalescing
from .triton_tables import COLUMNS, table_kernel, times_of

THREADS = 128  # of a program: one warp for each of the four schedulers of a multiprocessor
WARP = 32
SPACES = 3, 3, 2, 2  # the first axis of space of means, log-weights, state and source
# Means that a thread holds at most: of its 255 registers, backward needs as many again for their gradients, and more
# for what goes with each component and channel.
FORWARD_MEANS, BACKWARD_MEANS = 128, 32


class TritonTable(NamedTuple):
    """Scalars of the substeps (B, width, 11); ``ends`` (B, legs) int32, the substeps taken when each leg is done."""

    scalars: Tensor
    ends: Tensor


def coefficient_table(
    policy: GMFlowPolicy, raws: list[Tensor], substeps: int, *, averaged: bool, longest: float = 1.0
) -> TritonTable:
    """The coefficient table of a rollout through ``raws``; ``averaged`` weighs velocities for their mean over sigma.

    ``longest`` bounds the raw length of the whole rollout: the table, and scratch memory of backward, are so wide.
    """
    batch, device = policy.means.shape[0], policy.means.device
    legs = len(raws) - 1
    width = ceil(substeps * longest) + legs
    times, strides = times_of(policy.raw_src, raws, device)
    scalars = torch.empty(batch, width, COLUMNS.value, device=device, dtype=working_dtype(policy.means, policy.x_src))
    ends = torch.empty(batch, legs, device=device, dtype=torch.int32)
    logstds = policy.logstds.reshape(-1)
    columns = triton.next_power_of_2(width)
    with torch.cuda.device_of(scalars):
        table_kernel[(batch,)](
            *times, logstds, scalars, ends, *strides, logstds.stride(0), width, substeps, policy.shift,
            policy.temperature, LEGS=legs, AVERAGED=averaged, WIDTH=columns, num_warps=table_warps(columns),
        )  # fmt: skip
    return TritonTable(scalars, ends)


def table_warps(columns: int) -> int:
    """Warps that fill the table of a sample: a thread a column, since a rollout cannot begin before its last one."""
    return min(8, max(1, columns // WARP))


def states(policy: GMFlowPolicy, x: Tensor, table: TritonTable) -> Tensor:
    """States (legs, B, C, *S) at the end of each leg."""
    policy, x = _addressable(policy, x)
    out = x.new_empty(table.ends.shape[1], *x.shape, dtype=working_dtype(policy.means, x))
    _launch(forward_kernel, FORWARD_MEANS, policy, x, table, (out,), LEGS=table.ends.shape[1], INTEGRATE=False)
    return out


def integral(policy: GMFlowPolicy, x: Tensor, table: TritonTable, *, keep: bool = False) -> tuple[Tensor, None]:
    """Sum of weight times velocity over the substeps, (B, C, *S); backward walks again and needs nothing kept."""
    policy, x = _addressable(policy, x)
    out = x.new_empty(x.shape, dtype=working_dtype(policy.means, x))
    _launch(forward_kernel, FORWARD_MEANS, policy, x, table, (out,), LEGS=table.ends.shape[1], INTEGRATE=True)
    return out, None


def integral_backward(
    policy: GMFlowPolicy, x: Tensor, table: TritonTable, grad: Tensor, kept: None = None
) -> Gradients:
    """Gradients for means, logweights, logstds and x of the inner product of ``grad`` (B, C, *S) with the integral."""
    policy, x = _addressable(policy, x)
    dtype = working_dtype(policy.means, x)
    means, logweights = torch.empty_like(policy.means), torch.empty_like(policy.logweights)
    state = x.new_empty(x.shape)
    path = x.new_empty(table.scalars.shape[1], *x.shape, dtype=dtype)
    programs = _programs(program_sizes(*policy.means.shape[1:3], BACKWARD_MEANS), x)
    logstds = x.new_empty(x.shape[0], programs * THREADS // WARP, dtype=dtype)
    scratch = (grad.to(dtype).contiguous(), path, state, logstds)
    _launch(backward_kernel, BACKWARD_MEANS, policy, x, table, scratch, (means, logweights))
    logstds = logstds.sum(dim=1).to(policy.logstds.dtype).reshape(policy.logstds.shape)
    return Gradients(means, logweights, logstds, state)


def _addressable(policy: GMFlowPolicy, x: Tensor) -> tuple[GMFlowPolicy, Tensor]:
    """The same policy and state, copied only where space has more axes than the kernels have strides for."""
    if collapsible((policy.means, policy.logweights, x, policy.x_src), SPACES):
        return policy, x
    tensors = {name: getattr(policy, name).contiguous() for name in ("means", "logweights", "x_src")}
    return replace(policy, **tensors), x.contiguous()


def program_sizes(components: int, channels: int, most: int) -> dict[str, int]:
    """Compile-time sizes of a program whose threads hold at most ``most`` means.

    Components, channels, the lanes that share each out, and threads. The longer side of what a thread holds is halved
    until it is small enough. Lanes of a warp exchange sums in a few cycles; where a position takes more lanes than a
    warp has, Triton makes warps wait for each other.
    """
    rows, columns, klanes, clanes = components, channels, 1, 1
    while rows * columns > most and klanes * clanes < THREADS:
        if rows >= columns:
            klanes *= 2
        else:
            clanes *= 2
        rows, columns = triton.cdiv(components, klanes), triton.cdiv(channels, clanes)
    return {"K": components, "C": channels, "KLANES": klanes, "CLANES": clanes, "THREADS": THREADS}


def _programs(sizes: dict[str, int], x: Tensor) -> int:
    """Programs for each sample of ``x``."""
    return triton.cdiv(x.shape[2:].numel(), THREADS // (sizes["KLANES"] * sizes["CLANES"]))


def _launch(
    kernel, most: int, policy: GMFlowPolicy, x: Tensor, table: TritonTable, results: tuple, strided: tuple = (), **flags
) -> None:
    """Launch over blocks of positions; ``results`` are contiguous, ``strided`` lie like means and logweights."""
    inputs = (policy.means, policy.logweights, x, policy.x_src, *strided)
    space, views = collapse_positions(inputs, (*SPACES, 3, 3)[: len(inputs)])
    dropped = marks_of(policy.dropped)
    sizes = program_sizes(*policy.means.shape[1:3], most)
    programs = _programs(sizes, x)
    with torch.cuda.device_of(x), without_coalescing():
        kernel[(x.shape[0] * programs,)](
            *views, policy.means if dropped is None else dropped, table.scalars, table.ends, *results,
            x.shape[0], x.shape[2:].numel(), programs, table.scalars.shape[1], space[1], space[2],
            *(view.stride() for view in views), 1 / policy.temperature,
            DROPPED=dropped is not None, **sizes, **flags, num_warps=THREADS // WARP,
        )  # fmt: skip
