"""How the GM kernels share positions out among threads: places in memory, reading and storing, sums over lanes.

A value is a vector with one entry a thread, or a tuple of such vectors. ``KLANES`` times ``CLANES`` neighbouring
threads own a position together. Entry k of what belongs to components is component k KLANES + lane, entry c of what
belongs to channels is channel c CLANES + lane; what is not shared out lies in all lanes alike.

Memory is read and written entry by entry, and each entry is a vector with one element a thread. A block of entries and
threads would be one instruction of Triton's, but Triton 3.3 to 3.7 share its rows out among threads and hand them over
through memory, in 13,000 instructions for FLUX. The hint of contiguity below is smaller than the truth for the same
reason: no thread is to read what another one owns for the sake of wider loads.
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
def load_along(first, stride, lane, inside, SIZE: tl.constexpr, LANES: tl.constexpr, dtype: tl.constexpr):
    """Entries of an axis that lanes share out, ``stride`` apart from ``first`` on, zero where there are none.

    What differs from thread to thread is one address; the rest is the same for all and takes no registers of theirs.
    """
    step = tl.cast(stride, tl.int64)
    own = first + lane * step
    values = ()
    for entry in tl.static_range((SIZE + LANES - 1) // LANES):
        there = inside & (lane + entry * LANES < SIZE)
        values = values + (tl.load(own + entry * LANES * step, mask=there, other=0).to(dtype),)
    return values


@triton.jit
def store_along(first, stride, lane, inside, values, SIZE: tl.constexpr, LANES: tl.constexpr):
    """The inverse of :func:`load_along`; lanes that hold the same write the same, and read back what they wrote."""
    step = tl.cast(stride, tl.int64)
    own = first + lane * step
    for entry in tl.static_range(len(values)):
        there = inside & (lane + entry * LANES < SIZE)
        tl.store(own + entry * LANES * step, values[entry], mask=there)


@triton.jit
def load_state(
    first, strides, sample, space, inside, lanes, C: tl.constexpr, CLANES: tl.constexpr, dtype: tl.constexpr
):
    """The channels of a state (B, C, *space) with these strides."""
    return load_along(first + offsets(sample, space, strides, 2), strides[1], lanes[1], inside, C, CLANES, dtype)


@triton.jit
def load_means(
    first, strides, inside, lanes,
    K: tl.constexpr, C: tl.constexpr, KLANES: tl.constexpr, CLANES: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """The means of a position from ``first`` on, in the order (k, c), zero where there are none."""
    step = tl.cast(strides[1], tl.int64)
    own = first + lanes[0] * step
    values = ()
    for k in tl.static_range((K + KLANES - 1) // KLANES):
        there = inside & (lanes[0] + k * KLANES < K)
        values = values + load_along(own + k * KLANES * step, strides[2], lanes[1], there, C, CLANES, dtype)
    return values


@triton.jit
def store_means(
    first, strides, inside, lanes, values, K: tl.constexpr, C: tl.constexpr, KLANES: tl.constexpr, CLANES: tl.constexpr
):
    """The inverse of :func:`load_means`."""
    CHANNELS: tl.constexpr = (C + CLANES - 1) // CLANES
    step = tl.cast(strides[1], tl.int64)
    own = first + lanes[0] * step
    for k in tl.static_range((K + KLANES - 1) // KLANES):
        there = inside & (lanes[0] + k * KLANES < K)
        of_component = ()
        for c in tl.static_range(CHANNELS):
            of_component = of_component + (values[k * CHANNELS + c],)
        store_along(own + k * KLANES * step, strides[2], lanes[1], there, of_component, C, CLANES)
