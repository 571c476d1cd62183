"""The Triton kernels of DX rollouts: the map of a rollout in float64, the map applied, and its adjoint."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_lanes import axes_of_space, offsets
from .triton_tables import SIGMA_FLOOR, sigma_of, substeps_of


@triton.jit
def _basis(elapsed, segment, index, POLYNOMIAL: tl.constexpr, N: tl.constexpr):
    """Weights (NP,) of the N estimates of x_0 at a raw time ``elapsed`` below the source."""
    if POLYNOMIAL:
        weights = tl.where(index == 0, 1.0, 0.0).to(tl.float64)
        power = elapsed * 0 + 1
        for term in range(1, N):
            power *= elapsed
            weights = tl.where(index == term, power, weights)
        return weights
    position = tl.minimum(tl.maximum((1 - elapsed / segment) * (N - 1), 0), N - 1)
    return tl.where(index < N, tl.maximum(1 - tl.abs(position - index), 0), 0)


@triton.jit
def map_kernel(
    raw_src, raw_start, raw_ends, gain, beta, src_stride, start_stride, leg_stride, end_stride, substeps,
    shift: tl.float64, segment: tl.float64,
    LEGS: tl.constexpr, AVERAGED: tl.constexpr, POLYNOMIAL: tl.constexpr, N: tl.constexpr, NP: tl.constexpr,
):  # fmt: skip
    """gain (B, LEGS) and beta (B, LEGS, N) of one sample, from raw_src (B,), raw_start (B,) and raw_ends (LEGS, B).

    A substep turns gain x + sum beta_n x_0^n of all before it, so that both follow by one recursion.
    """
    sample = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, NP)
    source = tl.load(raw_src + sample * src_stride)
    # A segment that would end below raw time 0 ends there.
    segment = tl.minimum(tl.maximum(source, SIGMA_FLOOR), segment)
    moved = source * 0
    weights = moved + tl.zeros([NP], dtype=tl.float64)
    raw_from = tl.load(raw_start + sample * start_stride)
    for leg in range(LEGS):
        raw_to = tl.load(raw_ends + leg * leg_stride + sample * end_stride)
        exact = substeps_of(raw_from - raw_to, substeps)
        count = exact.to(tl.int32)
        for step in range(count):
            raw = raw_from + (raw_to - raw_from) * (step / exact)
            following = raw_from + (raw_to - raw_from) * ((step + 1) / exact)
            rate = (sigma_of(following, shift) - sigma_of(raw, shift)) / tl.maximum(sigma_of(raw, shift), SIGMA_FLOOR)
            moved += rate * (1 + moved)
            weights += rate * (weights - _basis(source - raw, segment, index, POLYNOMIAL, N))
        scaled, shares = moved, weights
        if AVERAGED:
            total = sigma_of(raw_to, shift) - sigma_of(raw_from, shift)
            local = (count == 1) | (total == 0)
            start = tl.maximum(sigma_of(raw_from, shift), SIGMA_FLOOR)
            divisor = tl.where(local, 1.0, total)
            scaled = tl.where(local, 1 / start, moved / divisor)
            here = _basis(source - raw_from, segment, index, POLYNOMIAL, N)
            shares = tl.where(local, -here / start, weights / divisor)
        tl.store(gain + sample * LEGS + leg, scaled)
        tl.store(beta + (sample * LEGS + leg) * N + index, shares, mask=index < N)
        raw_from = raw_to


@triton.jit
def _place(blocks, elements, size1, size2, BLOCK: tl.constexpr):
    """The sample of this program; its elements, their places on three axes, and whether they are there."""
    element = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    sample = tl.cast(tl.program_id(0) // blocks, tl.int64)
    return sample, element.to(tl.int64), axes_of_space(element, size1, size2), element < elements


@triton.jit
def _floored(raw_src, sample, src_stride, shift):
    return tl.maximum(sigma_of(tl.load(raw_src + sample * src_stride), shift), SIGMA_FLOOR)


@triton.jit
def apply_kernel(
    grid, x, x_src, gain, beta, raw_src, out,
    batch, elements, blocks, size1, size2, grid_strides, state_strides, source_strides, src_stride, shift: tl.float64,
    LEGS: tl.constexpr, N: tl.constexpr, ADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out (LEGS, B, elements) = gain (x - x_s) + drift x_s - sigma_s sum_n beta_n u_n, plus x if it is to be ADDED."""
    dtype: tl.constexpr = out.dtype.element_ty
    sample, element, space, there = _place(blocks, elements, size1, size2, BLOCK)
    sigma = _floored(raw_src, sample, src_stride, shift)
    state = tl.load(x + offsets(sample, space, state_strides, 1), mask=there).to(dtype)
    source = tl.load(x_src + offsets(sample, space, source_strides, 1), mask=there).to(dtype)
    first = grid + offsets(sample, space, grid_strides, 2)
    place = out + sample * elements + element
    for leg in range(LEGS):
        grown = tl.load(gain + sample * LEGS + leg)
        drift = grown
        moved = tl.zeros([BLOCK], dtype=dtype)
        for n in tl.static_range(N):
            share = tl.load(beta + (sample * LEGS + leg) * N + n)
            drift += share
            moved += (-sigma * share).to(dtype) * tl.load(first + n * grid_strides[1], mask=there).to(dtype)
        moved += grown.to(dtype) * (state - source) + drift.to(dtype) * source
        if ADDED:
            moved = state + moved
        tl.store(place, moved, mask=there)
        place += tl.cast(batch, tl.int64) * elements


@triton.jit
def adjoint_kernel(
    grad, gain, beta, raw_src, grad_grid, grad_x, grad_src,
    batch, elements, blocks, size1, size2, grad_grid_strides, src_stride, shift: tl.float64,
    LEGS: tl.constexpr, N: tl.constexpr, ADDED: tl.constexpr, OF_X: tl.constexpr, OF_SOURCE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The adjoint of :func:`apply_kernel` for grad (LEGS, B, elements): of the grid, and of x and x_s if wanted."""
    dtype: tl.constexpr = grad.dtype.element_ty
    sample, element, space, there = _place(blocks, elements, size1, size2, BLOCK)
    sigma = _floored(raw_src, sample, src_stride, shift)
    within = sample * elements + element
    stride = tl.cast(batch, tl.int64) * elements
    gains, betas = gain + sample * LEGS, beta + sample * LEGS * N
    upstream = tl.load(grad + within, mask=there)
    of_source = tl.zeros([BLOCK], dtype=dtype)
    for n in tl.static_range(N):
        share = tl.load(betas + n)
        total = (-sigma * share).to(dtype) * upstream
        of_source += share.to(dtype) * upstream
        for leg in range(1, LEGS):
            share = tl.load(betas + leg * N + n)
            later = tl.load(grad + within + leg * stride, mask=there)
            total += (-sigma * share).to(dtype) * later
            of_source += share.to(dtype) * later
        place = grad_grid + offsets(sample, space, grad_grid_strides, 2) + n * grad_grid_strides[1]
        tl.store(place, total, mask=there)
    if OF_X:
        total = tl.zeros([BLOCK], dtype=dtype)
        for leg in range(LEGS):
            later = tl.load(grad + within + leg * stride, mask=there)
            total += tl.load(gains + leg).to(dtype) * later
            if ADDED:
                total += later
        tl.store(grad_x + within, total, mask=there)
    if OF_SOURCE:
        tl.store(grad_src + within, of_source, mask=there)
