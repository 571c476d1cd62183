"""The Triton kernels of GM rollouts: every substep of a block of positions in registers, forwards and backwards."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_tables import COLUMNS


@triton.jit
def _offsets(position, size1, size2, strides, AXIS: tl.constexpr):
    """Offsets of flat positions along the three axes of space that start at ``AXIS`` of a tensor with these strides."""
    inner = position % size2
    outer = position // size2
    return (outer // size1) * strides[AXIS] + (outer % size1) * strides[AXIS + 1] + inner * strides[AXIS + 2]


@triton.jit
def _places_of_means(means, strides, sample, space, k, c):
    """The addresses of the block's means, (KP, CP, BLOCK)."""
    rows, columns = k * strides[1], c * strides[2]
    return means + sample * strides[0] + rows[:, None, None] + columns[None, :, None] + space[None, None, :]


@triton.jit
def _read_means(means, strides, sample, space, inside, k, c, K: tl.constexpr, C: tl.constexpr, dtype: tl.constexpr):
    """The block's means, (KP, CP, BLOCK), zero outside."""
    place = _places_of_means(means, strides, sample, space, k, c)
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
def _velocity(m, square, prior, y, source, row):
    _weights, _energy, mean, _query = _posterior(m, square, prior, y, source, row)
    return tl.load(row + 3) * y + tl.load(row + 4) * source + tl.load(row + 5) * mean


@triton.jit
def _read_block(
    means, logweights, x, x_src, dropped, positions, blocks, size1, size2,
    means_strides, logweights_strides, x_strides, src_strides, inverse_temperature,
    DROPPED: tl.constexpr, K: tl.constexpr, C: tl.constexpr, KP: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr,
    dtype: tl.constexpr,
):  # fmt: skip
    """The sample, positions and values of the program's block.

    It gives the positions that exist, the channels (CP, 1) that exist, means and their squares (KP, BLOCK),
    log-weights, source and state.
    """
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
    return sample, position, inside, (c < C)[:, None], m, tl.sum(m * m, axis=1), prior, source, begin


@triton.jit
def _store_path(path, mask, stride, m, square, prior, y, source, rows, last):
    """Store the states (CP, BLOCK) that the first ``last`` substeps start from at ``path``, a ``stride`` apart."""
    for step in range(last):
        tl.store(path + step * stride, y, mask=mask)
        row = rows + step * COLUMNS
        u = _velocity(m, square, prior, y, source, row)
        y += tl.load(row + 6) * u


@triton.jit
def _store_gradients(
    grad_means, grad_logweights, means_strides, logweights_strides, m, sum_means, sum_square, sum_prior,
    inverse_temperature, sample, position, inside, size1, size2,
    K: tl.constexpr, C: tl.constexpr, KP: tl.constexpr, CP: tl.constexpr,
):  # fmt: skip
    """Store the gradients of the block's means (KP, CP, BLOCK) and log-weights (KP, BLOCK).

    Those of the means take in the gradients through their squares.
    """
    k = tl.arange(0, KP).to(tl.int64)
    c = tl.arange(0, CP).to(tl.int64)
    there = (k < K)[:, None] & inside[None, :]
    space = _offsets(position, size1, size2, means_strides, 3)
    place = _places_of_means(grad_means, means_strides, sample, space, k, c)
    tl.store(place, sum_means - 2 * sum_square[:, None, :] * m, mask=there[:, None, :] & (c < C)[None, :, None])
    place = grad_logweights + sample * logweights_strides[0] + (k * logweights_strides[1])[:, None]
    place = place + _offsets(position, size1, size2, logweights_strides, 3)[None, :]
    tl.store(place, (sum_prior * inverse_temperature).to(sum_prior.dtype), mask=there)


@triton.jit
def forward_kernel(
    means, logweights, x, x_src, dropped, scalars, ends, out,
    batch, positions, blocks, width, size1, size2,
    means_strides, logweights_strides, x_strides, src_strides, inverse_temperature: tl.float64,
    LEGS: tl.constexpr, DROPPED: tl.constexpr, INTEGRATE: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, KP: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """States at the ends of legs, out (LEGS, B, C, positions), or the integral of velocities, out (B, C, positions)."""
    dtype: tl.constexpr = scalars.dtype.element_ty
    sample, position, inside, channels, m, square, prior, source, begin = _read_block(
        means, logweights, x, x_src, dropped, positions, blocks, size1, size2,
        means_strides, logweights_strides, x_strides, src_strides, inverse_temperature,
        DROPPED, K, C, KP, CP, BLOCK, dtype,
    )  # fmt: skip
    wanted = channels & inside[None, :]
    place = out + (sample * C + tl.arange(0, CP).to(tl.int64))[:, None] * positions + position[None, :]
    y = begin - source
    total = tl.zeros_like(y)
    first = 0
    for leg in range(LEGS):
        last = tl.load(ends + sample * LEGS + leg)
        for step in range(first, last):
            row = scalars + (sample * width + step) * COLUMNS
            u = _velocity(m, square, prior, y, source, row)
            y += tl.load(row + 6) * u
            if INTEGRATE:
                total += tl.load(row + 7) * u
        first = last
        if not INTEGRATE:
            # The change is added to x itself, so that a rollout of length zero returns x bit for bit.
            tl.store(place, begin + (y - (begin - source)), mask=wanted)
            place += tl.cast(batch, tl.int64) * C * positions
    if INTEGRATE:
        tl.store(place, total, mask=wanted)


@triton.jit
def _slope(m, weights, pull):
    """Adjoint (KP, BLOCK) of the logits, from that of the mean, (CP, BLOCK)."""
    response = tl.sum(m * pull[None, :, :], axis=1)
    return weights * (response - tl.sum(weights * response, axis=0)[None, :])


@triton.jit
def backward_kernel(
    means, logweights, x, x_src, grad_means, grad_logweights, dropped, scalars, ends, grad, path, grad_x, grad_logstds,
    batch, positions, blocks, width, size1, size2,
    means_strides, logweights_strides, x_strides, src_strides, grad_means_strides, grad_logweights_strides,
    inverse_temperature: tl.float64,
    LEGS: tl.constexpr, DROPPED: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, KP: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adjoint of velocities integrated over one leg; path (width, B, C, positions): scratch; grad_logstds (B, blocks).

    With w the posterior weights, M = sum w m, E the energies and U the adjoint of the velocity: dlogit_k = c w_k
    (m_k.U - M.U), and all else follows by the product rule on the equations of ``coefficients``.
    """
    dtype: tl.constexpr = scalars.dtype.element_ty
    sample, position, inside, channels, m, square, prior, source, begin = _read_block(
        means, logweights, x, x_src, dropped, positions, blocks, size1, size2,
        means_strides, logweights_strides, x_strides, src_strides, inverse_temperature,
        DROPPED, K, C, KP, CP, BLOCK, dtype,
    )  # fmt: skip
    wanted = channels & inside[None, :]
    within = (sample * C + tl.arange(0, CP).to(tl.int64))[:, None] * positions + position[None, :]
    upstream = tl.load(grad + within, mask=wanted, other=0)
    stride = tl.cast(batch, tl.int64) * C * positions
    last = tl.load(ends + sample)

    y = begin - source
    rows = scalars + sample * width * COLUMNS
    _store_path(path + within, wanted, stride, m, square, prior, y, source, rows, last)
    # Other threads of the program may read what one of them stored.
    tl.debug_barrier()

    state = tl.zeros_like(y)
    sum_means = tl.zeros_like(m)
    sum_prior = tl.zeros_like(prior)
    sum_square = tl.zeros_like(prior)
    sum_logstd = tl.zeros_like(y)
    sum_energy = tl.zeros_like(prior)
    for back in range(last):
        step = last - 1 - back
        row = rows + step * COLUMNS
        y = tl.load(path + step * stride + within, mask=wanted, other=0)
        weights, energy, mean, query = _posterior(m, square, prior, y, source, row)
        adjoint = tl.load(row + 7) * upstream + tl.load(row + 6) * state
        pull = tl.load(row + 5) * adjoint
        slope = _slope(m, weights, pull)
        sum_means += weights[:, None, :] * pull[None, :, :] - slope[:, None, :] * query[None, :, :]
        sum_square += tl.load(row + 2) * slope
        sum_prior += slope
        state += tl.load(row + 3) * adjoint - tl.load(row) * tl.sum(slope[:, None, :] * m, axis=0)
        kappa = tl.load(row + 8)
        sum_energy += kappa * slope * energy
        sum_logstd += adjoint * (tl.load(row + 9) * y + tl.load(row + 10) * source) - kappa * pull * mean

    _store_gradients(
        grad_means, grad_logweights, grad_means_strides, grad_logweights_strides, m, sum_means, sum_square, sum_prior,
        inverse_temperature, sample, position, inside, size1, size2, K, C, KP, CP,
    )  # fmt: skip
    tl.store(grad_x + within, state, mask=wanted)
    tl.store(grad_logstds + tl.program_id(0), tl.sum(tl.sum(sum_logstd, axis=0)) + tl.sum(tl.sum(sum_energy, axis=0)))
