"""How the GM kernels share positions out among threads: places in memory, reading and storing, sums over lanes.

A value is a vector with one entry a thread, or a tuple of such vectors. ``KLANES`` times ``CLANES`` neighbouring
threads own a position together. Entry k of what belongs to components is component k KLANES + lane, entry c of what
belongs to channels is channel c CLANES + lane; what is not shared out lies in all lanes alike.

Memory is read and written in blocks (entries, threads), and a block turns into a tuple and back without leaving the
registers of a thread. That holds as long as every thread keeps the same column: the hints of contiguity below are
smaller than the truth, so that Triton does not hand the entries out anew for the sake of wider loads.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def place_of_threads(positions, blocks, KLANES: tl.constexpr, CLANES: tl.constexpr, THREADS: tl.constexpr):
    """The sample of this program; the position of each thread, whether there is one, and its lanes (k, c)."""
    thread = tl.max_contiguous(tl.arange(0, THREADS), 1)
    lane = thread % (KLANES * CLANES)
    position = (tl.program_id(0) % blocks) * (THREADS // (KLANES * CLANES)) + thread // (KLANES * CLANES)
    sample = tl.cast(tl.program_id(0) // blocks, tl.int64)
    return sample, position, position < positions, (lane // CLANES, lane % CLANES)


@triton.jit
def axes_of_space(position, size1, size2):
    """Indices of flat positions on the three axes of space, int64: offsets in large tensors pass 2^31."""
    inner = position % size2
    outer = position // size2
    return (outer // size1).to(tl.int64), (outer % size1).to(tl.int64), inner.to(tl.int64)


@triton.jit
def offsets(sample, space, strides, AXIS: tl.constexpr):
    """Offsets of positions in a tensor with these strides, whose axes of space start at ``AXIS``."""
    within = space[0] * strides[AXIS] + space[1] * strides[AXIS + 1] + space[2] * strides[AXIS + 2]
    return sample * strides[0] + within


@triton.jit
def rows_of(WIDTH: tl.constexpr):
    """The numbers of the rows of a block, (WIDTH, 1), int64."""
    return tl.max_contiguous(tl.arange(0, WIDTH)[:, None], [1, 1]).to(tl.int64)


@triton.jit
def _over_lanes(value, REDUCTION: tl.constexpr, AXIS: tl.constexpr, KLANES: tl.constexpr, CLANES: tl.constexpr):
    """A reduction over an axis of (positions, KLANES, CLANES), in all lanes."""
    by_lanes = tl.reshape(value, [value.shape[0] // (KLANES * CLANES), KLANES, CLANES])
    if by_lanes.shape[AXIS] == 1:
        return value
    else:
        reduced = REDUCTION(by_lanes, axis=AXIS, keep_dims=True)
        return tl.reshape(tl.broadcast_to(reduced, by_lanes.shape), value.shape)


@triton.jit
def sum_over_components(value, KLANES: tl.constexpr, CLANES: tl.constexpr):
    """The sum over the lanes that share out components, in all of them."""
    return _over_lanes(value, tl.sum, 1, KLANES, CLANES)


@triton.jit
def sum_over_channels(value, KLANES: tl.constexpr, CLANES: tl.constexpr):
    """The sum over the lanes that share out channels, in all of them."""
    return _over_lanes(value, tl.sum, 2, KLANES, CLANES)


@triton.jit
def largest_of_components(value, KLANES: tl.constexpr, CLANES: tl.constexpr):
    """The largest entry among the lanes that share out components, in all of them."""
    return _over_lanes(value, tl.max, 1, KLANES, CLANES)


@triton.jit
def unstack(block, COUNT: tl.constexpr):
    """The first ``COUNT`` rows of a block (entries, threads) as a tuple."""
    WIDTH: tl.constexpr = block.shape[0]
    parts = (tl.trans(block),)
    for level in tl.static_range(31):
        if WIDTH >> level > 1:
            halves = ()
            for index in tl.static_range(len(parts)):
                part = tl.reshape(parts[index], [block.shape[1], 2, WIDTH >> (level + 1)])
                first, second = tl.split(tl.trans(part, 0, 2, 1))
                halves = halves + (first, second)
            parts = halves
    values = ()
    for index in tl.static_range(COUNT):
        values = values + (tl.reshape(parts[index], [block.shape[1]]),)
    return values


@triton.jit
def stack(values, WIDTH: tl.constexpr):
    """A tuple as the first rows of a block (WIDTH, threads), and zero behind them."""
    threads: tl.constexpr = values[0].shape[0]
    parts = values
    for _ in tl.static_range(WIDTH - len(values)):
        parts = parts + (tl.zeros_like(values[0]),)
    for level in tl.static_range(31):
        if WIDTH >> level > 1:
            pairs = ()
            for index in tl.static_range(len(parts) // 2):
                pair = tl.join(parts[2 * index], parts[2 * index + 1])
                if level > 0:
                    pair = tl.trans(pair, 0, 2, 1)
                pairs = pairs + (tl.reshape(pair, [threads, 2 << level]),)
            parts = pairs
    return tl.trans(tl.reshape(parts[0], [threads, WIDTH]))


@triton.jit
def places_along(first, stride, lane, LANES: tl.constexpr, WIDTH: tl.constexpr):
    """Addresses (WIDTH, threads) along an axis that lanes share out, ``stride`` apart from ``first`` on, and indices.

    What differs from thread to thread is one address; the rest is the same for all and takes no registers of theirs.
    """
    row = rows_of(WIDTH) * LANES
    return (first + lane * stride)[None, :] + row * stride, row + lane[None, :]


@triton.jit
def load_channels(first, stride, inside, lanes, C: tl.constexpr, CLANES: tl.constexpr, dtype: tl.constexpr):
    """The channels of a state that lie ``stride`` apart from ``first`` on, zero where there are none."""
    COUNT: tl.constexpr = (C + CLANES - 1) // CLANES
    places, c = places_along(first, stride, lanes[1], CLANES, triton.next_power_of_2(COUNT))
    return unstack(tl.load(places, mask=inside[None, :] & (c < C), other=0).to(dtype), COUNT)


@triton.jit
def load_state(
    first, strides, sample, space, inside, lanes, C: tl.constexpr, CLANES: tl.constexpr, dtype: tl.constexpr
):
    """The channels of a state (B, C, *space) with these strides."""
    return load_channels(first + offsets(sample, space, strides, 2), strides[1], inside, lanes, C, CLANES, dtype)


@triton.jit
def store_channels(first, stride, values, inside, lanes, C: tl.constexpr, CLANES: tl.constexpr):
    """The inverse of :func:`load_channels`; lanes that hold the same write the same, and read back what they wrote."""
    WIDTH: tl.constexpr = triton.next_power_of_2(len(values))
    places, c = places_along(first, stride, lanes[1], CLANES, WIDTH)
    tl.store(places, stack(values, WIDTH), mask=inside[None, :] & (c < C))


@triton.jit
def places_of_means(
    first, strides, inside, lanes, K: tl.constexpr, C: tl.constexpr, KLANES: tl.constexpr, CLANES: tl.constexpr
):
    """Addresses of the means from ``first`` on, in the order (k, c) of their tuple, and which of them there are."""
    CHANNELS: tl.constexpr = (C + CLANES - 1) // CLANES
    row = rows_of(triton.next_power_of_2((K + KLANES - 1) // KLANES * CHANNELS))
    k, c = row // CHANNELS * KLANES, row % CHANNELS * CLANES
    places = (first + lanes[0] * strides[1] + lanes[1] * strides[2])[None, :] + k * strides[1] + c * strides[2]
    return places, inside[None, :] & (k + lanes[0][None, :] < K) & (c + lanes[1][None, :] < C)
