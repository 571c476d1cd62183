"""The mixture of each position in a Triton kernel: reading it, its posterior, and the velocity that follows.

Letters are those of :mod:`piflow_cli.core.coefficients`: means m, displacement y = x - x_s, source x_s.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_lanes import (
    largest_of_components,
    load_along,
    load_means,
    offsets,
    sum_over_channels,
    sum_over_components,
)
from .triton_tables import COLUMNS
from .triton_tuples import added, scaled

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def mixed(m, weights, CHANNELS: tl.constexpr):
    """sum_k weights_k m_k over the components of a thread, for each of its channels."""
    found = ()
    for c in tl.static_range(CHANNELS):
        value = weights[0] * m[c]
        for k in tl.static_range(1, len(weights)):
            value += weights[k] * m[k * CHANNELS + c]
        found = found + (value,)
    return found


@triton.jit
def over_components(values, KLANES: tl.constexpr, CLANES: tl.constexpr):
    """What :func:`mixed` gives, over the components of all lanes."""
    found = ()
    for c in tl.static_range(len(values)):
        found = found + (sum_over_components(values[c], KLANES, CLANES),)
    return found


@triton.jit
def read_mixture(
    means, logweights, dropped, means_strides, logweights_strides, sample, space, inside, lanes, inverse_temperature,
    DROPPED: tl.constexpr, K: tl.constexpr, C: tl.constexpr, KLANES: tl.constexpr, CLANES: tl.constexpr,
    dtype: tl.constexpr,
):  # fmt: skip
    """Means, their squares over the channels of a thread, and log-weights at the policy's temperature.

    Log-weights are minus infinity where there is no component. Of lanes that share out channels the first has them.
    """
    COUNT: tl.constexpr = (K + KLANES - 1) // KLANES
    CHANNELS: tl.constexpr = (C + CLANES - 1) // CLANES
    first = means + offsets(sample, space, means_strides, 3)
    m = load_means(first, means_strides, inside, lanes, K, C, KLANES, CLANES, dtype)
    square = ()
    for k in tl.static_range(COUNT):
        total = m[k * CHANNELS] * m[k * CHANNELS]
        for c in tl.static_range(1, CHANNELS):
            total += m[k * CHANNELS + c] * m[k * CHANNELS + c]
        square = square + (total,)
    first = logweights + offsets(sample, space, logweights_strides, 3)
    read = load_along(first, logweights_strides[1], lanes[0], inside, K, KLANES, dtype)
    prior = ()
    for entry in tl.static_range(COUNT):
        k = lanes[0] + entry * KLANES
        kept = k < K
        if DROPPED:
            kept = kept & (tl.load(dropped + sample * K + k, mask=kept, other=1) == 0)
        value = tl.where(kept, (read[entry] * inverse_temperature).to(dtype), float("-inf"))
        prior = prior + (tl.where(lanes[1] == 0, value, 0),)
    return m, square, prior


@triton.jit
def scalars_of(table, width, step):
    """The scalars p, q, s, a, b, c, change, weight, kappa, a_logstd and b_logstd of a substep, or of the nearest one.

    The loops read them a substep ahead, so that nothing waits for memory.
    """
    row = table + tl.minimum(tl.maximum(step, 0), width - 1) * COLUMNS
    values = ()
    for column in tl.static_range(COLUMNS):
        values = values + (tl.load(row + column),)
    return values


@triton.jit
def query_of(y, source, at):
    """p y + q x_s, whose product with a mean is the mean's energy but for the term of its square."""
    return added(scaled(source, at[1]), y, at[0])


@triton.jit
def weigh(m, square, prior, query, s, KLANES: tl.constexpr, CLANES: tl.constexpr):
    """Posterior weights of the components up to a common factor, and their sum over all of them."""
    logits = ()
    for k in tl.static_range(len(prior)):
        logit = prior[k] - s * square[k]
        for c in tl.static_range(len(query)):
            logit -= m[k * len(query) + c] * query[c]
        logits = logits + (sum_over_channels(logit, KLANES, CLANES),)
    top = logits[0]
    for k in tl.static_range(1, len(prior)):
        top = tl.maximum(top, logits[k])
    top = largest_of_components(top, KLANES, CLANES) * LOG2E
    weights = ()
    for k in tl.static_range(len(prior)):
        # One fused multiply-add a component; the rounding of the second product is a common factor.
        weights = weights + (tl.exp2(logits[k] * LOG2E - top),)
    total = weights[0]
    for k in tl.static_range(1, len(prior)):
        total += weights[k]
    return weights, sum_over_components(total, KLANES, CLANES)


@triton.jit
def velocity(m, square, prior, y, source, at, KLANES: tl.constexpr, CLANES: tl.constexpr):
    """Velocity a y + b x_s + c sum_k w_k m_k of the substep with the scalars ``at``."""
    weights, total = weigh(m, square, prior, query_of(y, source, at), at[2], KLANES, CLANES)
    u = added(scaled(y, at[3]), source, at[4])
    return added(u, over_components(mixed(m, weights, len(y)), KLANES, CLANES), at[5] / total)
