"""GM rollouts as Triton kernels: every substep of a position in registers.

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
import triton.language as tl
from torch import Tensor

from ..policies.gmflow import GMFlowPolicy
from .layout import Gradients, collapse_positions, working_dtype

COLUMNS = tl.constexpr(11)
SIGMA_FLOOR = tl.constexpr(1e-6)
DENOMINATOR_FLOOR = tl.constexpr(1e-6)
TILE = 4096  # means of one program: 32 a thread at four warps, and as many again for their gradient
LONGEST_BLOCK = 128


class Plan(NamedTuple):
    """Scalars of the substeps (B, width, 11); ``ends`` (B, legs) int32, the substeps taken when each leg is done."""

    scalars: Tensor
    ends: Tensor


def plan(policy: GMFlowPolicy, raws: list[Tensor], substeps: int, *, averaged: bool, longest: float = 1.0) -> Plan:
    """The coefficient table of a rollout through ``raws``; ``averaged`` weighs velocities for their mean over sigma.

    ``longest`` bounds the raw length of the whole rollout: the table, and scratch memory of backward, are so wide.
    """
    batch, device = policy.means.shape[0], policy.means.device
    legs = len(raws) - 1
    width = ceil(substeps * longest) + legs
    times = torch.stack([raw.to(device, torch.float64) for raw in (policy.raw_src, *raws)])
    scalars = torch.empty(batch, width, COLUMNS.value, device=device, dtype=working_dtype(policy, policy.x_src))
    ends = torch.empty(batch, legs, device=device, dtype=torch.int32)
    logstds = policy.logstds.reshape(-1)
    with torch.cuda.device_of(scalars):
        _table_kernel[(batch,)](
            times, logstds, scalars, ends, batch, width, logstds.stride(0), substeps, policy.shift, policy.temperature,
            LEGS=legs, AVERAGED=averaged, WIDTH=triton.next_power_of_2(width), num_warps=1,
        )  # fmt: skip
    return Plan(scalars, ends)


def states(policy: GMFlowPolicy, x: Tensor, plan: Plan) -> Tensor:
    """States (legs, B, C, *S) at the end of each leg."""
    policy, x = _addressable(policy, x)
    out = x.new_empty(plan.ends.shape[1], *x.shape, dtype=working_dtype(policy, x))
    _launch(_forward_kernel, policy, x, plan, (out,), INTEGRATE=False)
    return out


def integral(policy: GMFlowPolicy, x: Tensor, plan: Plan) -> Tensor:
    """Sum of weight times velocity over the substeps, (B, C, *S)."""
    policy, x = _addressable(policy, x)
    out = x.new_empty(x.shape, dtype=working_dtype(policy, x))
    _launch(_forward_kernel, policy, x, plan, (out,), INTEGRATE=True)
    return out


def integral_backward(policy: GMFlowPolicy, x: Tensor, plan: Plan, grad: Tensor) -> Gradients:
    """Gradients for means, logweights, logstds and x of the inner product of ``grad`` (B, C, *S) with the integral."""
    policy, x = _addressable(policy, x)
    dtype = working_dtype(policy, x)
    means, logweights = torch.empty_like(policy.means), torch.empty_like(policy.logweights)
    state = x.new_empty(x.shape)
    path = x.new_empty(plan.scalars.shape[1], *x.shape, dtype=dtype)
    blocks = triton.cdiv(x.shape[2:].numel(), program_sizes(*policy.means.shape[1:3])["BLOCK"])
    logstds = x.new_empty(x.shape[0], blocks, dtype=dtype)
    _launch(_backward_kernel, policy, x, plan, (grad.to(dtype).contiguous(), path, state, logstds), (means, logweights))
    logstds = logstds.sum(dim=1).to(policy.logstds.dtype).reshape(policy.logstds.shape)
    return Gradients(means, logweights, logstds, state)


def _addressable(policy: GMFlowPolicy, x: Tensor) -> tuple[GMFlowPolicy, Tensor]:
    """The same, copied only where space has more axes than the kernels have strides for."""
    if x.ndim <= 5:
        return policy, x
    tensors = {name: getattr(policy, name).contiguous() for name in ("means", "logweights", "x_src")}
    return replace(policy, **tensors), x.contiguous()


def program_sizes(components: int, channels: int) -> dict[str, int]:
    """Compile-time sizes of a program: components, channels, their powers of two, positions, and warps to hold them."""
    padded = triton.next_power_of_2(components), triton.next_power_of_2(channels)
    block = max(1, min(LONGEST_BLOCK, TILE // (padded[0] * padded[1])))
    warps = min(16, 4 * triton.cdiv(padded[0] * padded[1] * block, TILE) ** 2)
    return {"K": components, "C": channels, "KP": padded[0], "CP": padded[1], "BLOCK": block, "num_warps": warps}


def _launch(kernel, policy: GMFlowPolicy, x: Tensor, plan: Plan, results: tuple, strided: tuple = (), **flags) -> None:
    """Launch over blocks of positions; ``results`` are contiguous, ``strided`` lie like means and logweights."""
    inputs = (policy.means, policy.logweights, x, policy.x_src, *strided)
    sizes, views = collapse_positions(inputs, (3, 3, 2, 2, 3, 3)[: len(inputs)])
    dropped = policy.dropped if policy.dropped is None else policy.dropped.to(torch.uint8).contiguous()
    shape = program_sizes(*policy.means.shape[1:3])
    positions = x.shape[2:].numel()
    blocks = triton.cdiv(positions, shape["BLOCK"])
    with torch.cuda.device_of(x):
        kernel[(x.shape[0] * blocks,)](
            *views, policy.means if dropped is None else dropped, plan.scalars, plan.ends, *results,
            x.shape[0], positions, blocks, plan.scalars.shape[1], sizes[1], sizes[2],
            *(view.stride() for view in views), 1 / policy.temperature,
            LEGS=plan.ends.shape[1], DROPPED=dropped is not None, **shape, **flags,
        )  # fmt: skip


@triton.jit
def _sigma(raw, shift):
    return shift * raw / (1 + (shift - 1) * raw)


@triton.jit
def _substeps_of(interval, substeps):
    """max(1, round(substeps * interval)), halves to even as torch.round has them."""
    exact = interval * substeps
    rounded = tl.floor(exact + 0.5)
    odd = rounded - 2 * tl.floor(rounded / 2) == 1
    return tl.maximum(tl.where((rounded - exact == 0.5) & odd, rounded - 1, rounded), 1)


@triton.jit
def _table_kernel(
    times, logstds, scalars, ends, batch, width, logstd_stride, substeps, shift: tl.float64, temperature: tl.float64,
    LEGS: tl.constexpr, AVERAGED: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Scalars of one sample's substeps, leg after leg. times (legs + 2, B): the source, then the ends of the legs."""
    sample = tl.program_id(0).to(tl.int64)
    sigma_src = tl.maximum(_sigma(tl.load(times + sample), shift), SIGMA_FLOOR)
    odds_src = (1 - sigma_src) / sigma_src
    logstd = tl.load(logstds + sample * logstd_stride).to(tl.float64)
    variance = tl.exp(2 * logstd) * sigma_src * sigma_src * temperature
    step = tl.arange(0, WIDTH)
    first = 0
    for leg in range(LEGS):
        raw_from = tl.load(times + (leg + 1) * batch + sample)
        raw_to = tl.load(times + (leg + 2) * batch + sample)
        exact = tl.minimum(_substeps_of(raw_from - raw_to, substeps), width - first)
        raw = raw_from + (raw_to - raw_from) * (step / exact)
        following = raw_from + (raw_to - raw_from) * ((step + 1) / exact)
        change = _sigma(following, shift) - _sigma(raw, shift)
        weight = change
        if AVERAGED:
            total = _sigma(raw_to, shift) - _sigma(raw_from, shift)
            weight = tl.where(total < 0, change / tl.where(total < 0, total, -1.0), tl.where(step == 0, 1.0, 0.0))
        sigma = tl.maximum(_sigma(raw, shift), SIGMA_FLOOR)
        odds = (1 - sigma) / sigma
        gap = odds - odds_src
        zeta = gap * (odds + odds_src)
        denominator = tl.maximum(variance * zeta + 1, DENOMINATOR_FLOOR)
        scale = 1 / (sigma * denominator)
        row = scalars + (sample * width + first + step) * COLUMNS
        real = step < exact
        tl.store(row, sigma_src * odds * scale, mask=real)
        tl.store(row + 1, sigma_src * gap / denominator, mask=real)
        tl.store(row + 2, sigma_src * sigma_src * zeta / (2 * denominator), mask=real)
        tl.store(row + 3, (1 - variance * (odds + odds_src * odds_src)) * scale, mask=real)
        tl.store(row + 4, -variance * gap * scale, mask=real)
        tl.store(row + 5, sigma_src * scale, mask=real)
        tl.store(row + 6, change, mask=real)
        tl.store(row + 7, weight, mask=real)
        tl.store(row + 8, 2 * variance * zeta / denominator, mask=real)
        tl.store(row + 9, -2 * variance * odds / sigma * scale / denominator, mask=real)
        tl.store(row + 10, -2 * variance * gap * scale / denominator, mask=real)
        first += exact.to(tl.int32)
        tl.store(ends + sample * LEGS + leg, first)


@triton.jit
def _offsets(position, size1, size2, strides, AXIS: tl.constexpr):
    """Offsets of flat positions along the three axes of space that start at ``AXIS`` of a tensor with these strides."""
    inner = position % size2
    outer = position // size2
    return (outer // size1) * strides[AXIS] + (outer % size1) * strides[AXIS + 1] + inner * strides[AXIS + 2]


@triton.jit
def _read_means(means, strides, sample, space, inside, k, c, K: tl.constexpr, C: tl.constexpr, dtype: tl.constexpr):
    """The block's means, (KP, CP, BLOCK), zero outside."""
    rows = k * strides[1]
    columns = c * strides[2]
    place = means + sample * strides[0] + rows[:, None, None] + columns[None, :, None] + space[None, None, :]
    mask = (k < K)[:, None, None] & (c < C)[None, :, None] & inside[None, None, :]
    return tl.load(place, mask=mask, other=0).to(dtype)


@triton.jit
def _read_prior(
    logweights, strides, dropped, sample, space, inside, k, inverse_temperature,
    K: tl.constexpr, DROPPED: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """Log-weights (KP, BLOCK) at the policy's temperature, minus infinity where there is no component."""
    place = logweights + sample * strides[0] + (k * strides[1])[:, None] + space[None, :]
    there = k < K
    value = tl.load(place, mask=there[:, None] & inside[None, :], other=0).to(dtype)
    value = (value * inverse_temperature).to(dtype)
    if DROPPED:
        there = there & (tl.load(dropped + sample * K + k, mask=there, other=1) == 0)
    return tl.where(there[:, None], value, float("-inf"))


@triton.jit
def _read_state(x, strides, sample, space, inside, c, C: tl.constexpr, dtype: tl.constexpr):
    """A state (CP, BLOCK), zero outside."""
    place = x + sample * strides[0] + (c * strides[1])[:, None] + space[None, :]
    return tl.load(place, mask=(c < C)[:, None] & inside[None, :], other=0).to(dtype)


@triton.jit
def _posterior(m, square, prior, y, source, row):
    """Weights and energies (KP, BLOCK), mean and query p y + q x_s (CP, BLOCK) of the mixture in one substep."""
    query = tl.load(row) * y + tl.load(row + 1) * source
    energy = tl.sum(m * query[None, :, :], axis=1) + tl.load(row + 2) * square
    logits = prior - energy
    weights = tl.exp(logits - tl.max(logits, axis=0)[None, :])
    weights = weights / tl.sum(weights, axis=0)[None, :]
    return weights, energy, tl.sum(m * weights[:, None, :], axis=0), query


@triton.jit
def _forward_kernel(
    means, logweights, x, x_src, dropped, scalars, ends, out,
    batch, positions, blocks, width, size1, size2,
    means_strides, logweights_strides, x_strides, src_strides, inverse_temperature: tl.float64,
    LEGS: tl.constexpr, DROPPED: tl.constexpr, INTEGRATE: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, KP: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """States at the ends of legs, out (LEGS, B, C, positions), or the integral of velocities, out (B, C, positions)."""
    dtype: tl.constexpr = scalars.dtype.element_ty
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    position = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = position < positions
    k = tl.arange(0, KP).to(tl.int64)
    c = tl.arange(0, CP).to(tl.int64)
    m = _read_means(
        means, means_strides, sample, _offsets(position, size1, size2, means_strides, 3), inside, k, c, K, C, dtype
    )
    space = _offsets(position, size1, size2, logweights_strides, 3)
    prior = _read_prior(
        logweights, logweights_strides, dropped, sample, space, inside, k, inverse_temperature, K, DROPPED, dtype
    )
    source = _read_state(
        x_src, src_strides, sample, _offsets(position, size1, size2, src_strides, 2), inside, c, C, dtype
    )
    begin = _read_state(x, x_strides, sample, _offsets(position, size1, size2, x_strides, 2), inside, c, C, dtype)
    square = tl.sum(m * m, axis=1)
    wanted = (c < C)[:, None] & inside[None, :]
    place = out + (sample * C + c)[:, None] * positions + position[None, :]
    y = begin - source
    total = tl.zeros_like(y)
    first = 0
    for leg in range(LEGS):
        last = tl.load(ends + sample * LEGS + leg)
        for step in range(first, last):
            row = scalars + (sample * width + step) * COLUMNS
            weights, energy, mean, query = _posterior(m, square, prior, y, source, row)
            u = tl.load(row + 3) * y + tl.load(row + 4) * source + tl.load(row + 5) * mean
            y += tl.load(row + 6) * u
            if INTEGRATE:
                total += tl.load(row + 7) * u
        first = last
        if not INTEGRATE:
            # The change is added to x itself, so that a rollout of length zero returns x bit for bit.
            tl.store(place, begin + (y - (begin - source)), mask=wanted)
            place += batch.to(tl.int64) * C * positions
    if INTEGRATE:
        tl.store(place, total, mask=wanted)


@triton.jit
def _backward_kernel(
    means, logweights, x, x_src, grad_means, grad_logweights, dropped, scalars, ends, grad, path, grad_x, grad_logstds,
    batch, positions, blocks, width, size1, size2,
    means_strides, logweights_strides, x_strides, src_strides, grad_means_strides, grad_logweights_strides,
    inverse_temperature: tl.float64,
    LEGS: tl.constexpr, DROPPED: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, KP: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adjoint of the integral of velocities over one leg; path (width, B, C, positions) is scratch.

    With w the posterior weights, M = sum w m, E the energies and U the adjoint of the velocity: dlogit_k = c w_k
    (m_k.U - M.U), and all else follows by the product rule on the equations of ``coefficients``. grad_logstds (B,
    blocks).
    """
    dtype: tl.constexpr = scalars.dtype.element_ty
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    position = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = position < positions
    k = tl.arange(0, KP).to(tl.int64)
    c = tl.arange(0, CP).to(tl.int64)
    m = _read_means(
        means, means_strides, sample, _offsets(position, size1, size2, means_strides, 3), inside, k, c, K, C, dtype
    )
    space = _offsets(position, size1, size2, logweights_strides, 3)
    prior = _read_prior(
        logweights, logweights_strides, dropped, sample, space, inside, k, inverse_temperature, K, DROPPED, dtype
    )
    source = _read_state(
        x_src, src_strides, sample, _offsets(position, size1, size2, src_strides, 2), inside, c, C, dtype
    )
    begin = _read_state(x, x_strides, sample, _offsets(position, size1, size2, x_strides, 2), inside, c, C, dtype)
    square = tl.sum(m * m, axis=1)
    wanted = (c < C)[:, None] & inside[None, :]
    within = (sample * C + c)[:, None] * positions + position[None, :]
    upstream = tl.load(grad + within, mask=wanted, other=0)
    stride = batch.to(tl.int64) * C * positions
    last = tl.load(ends + sample)

    y = begin - source
    for step in range(0, last):
        tl.store(path + step * stride + within, y, mask=wanted)
        row = scalars + (sample * width + step) * COLUMNS
        weights, energy, mean, query = _posterior(m, square, prior, y, source, row)
        u = tl.load(row + 3) * y + tl.load(row + 4) * source + tl.load(row + 5) * mean
        y += tl.load(row + 6) * u
    # Other threads of the program may read what one of them stored.
    tl.debug_barrier()

    state = tl.zeros_like(y)
    sum_means = tl.zeros_like(m)
    sum_prior = tl.zeros_like(prior)
    sum_square = tl.zeros_like(prior)
    sum_logstd = tl.zeros_like(y)
    sum_energy = tl.zeros_like(prior)
    for back in range(0, last):
        step = last - 1 - back
        row = scalars + (sample * width + step) * COLUMNS
        y = tl.load(path + step * stride + within, mask=wanted, other=0)
        weights, energy, mean, query = _posterior(m, square, prior, y, source, row)
        adjoint = tl.load(row + 7) * upstream + tl.load(row + 6) * state
        pull = tl.load(row + 5) * adjoint
        response = tl.sum(m * pull[None, :, :], axis=1)
        slope = weights * (response - tl.sum(weights * response, axis=0)[None, :])
        sum_means += weights[:, None, :] * pull[None, :, :] - slope[:, None, :] * query[None, :, :]
        sum_square += tl.load(row + 2) * slope
        sum_prior += slope
        state += tl.load(row + 3) * adjoint - tl.load(row) * tl.sum(slope[:, None, :] * m, axis=0)
        kappa = tl.load(row + 8)
        sum_energy += kappa * slope * energy
        sum_logstd += adjoint * (tl.load(row + 9) * y + tl.load(row + 10) * source) - kappa * pull * mean
    sum_means -= 2 * sum_square[:, None, :] * m

    place = grad_means + sample * grad_means_strides[0]
    place = place + (k * grad_means_strides[1])[:, None, None] + (c * grad_means_strides[2])[None, :, None]
    place = place + _offsets(position, size1, size2, grad_means_strides, 3)[None, None, :]
    tl.store(place, sum_means, mask=(k < K)[:, None, None] & wanted[None, :, :])
    place = grad_logweights + sample * grad_logweights_strides[0] + (k * grad_logweights_strides[1])[:, None]
    place = place + _offsets(position, size1, size2, grad_logweights_strides, 3)[None, :]
    tl.store(place, (sum_prior * inverse_temperature).to(dtype), mask=(k < K)[:, None] & inside[None, :])
    tl.store(grad_x + within, state, mask=wanted)
    tl.store(grad_logstds + tl.program_id(0), tl.sum(tl.sum(sum_logstd, axis=0)) + tl.sum(tl.sum(sum_energy, axis=0)))
