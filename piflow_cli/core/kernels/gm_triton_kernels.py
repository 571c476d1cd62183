"""The Triton kernels of GM rollouts: every substep of a position in the registers of a thread, or of a few lanes.

All values are vectors with one entry a thread, and tuples of them: means in the order (k, c), what belongs to a
component, what belongs to a channel (see :mod:`.triton_lanes`). A position whose means are too many for one thread is
shared by neighbouring lanes of a warp. A sum over what they share out costs a few shuffles, every other sum costs
none, and no thread waits for another warp.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_lanes import (
    axes_of_space,
    largest_of_components,
    load_channels,
    offsets,
    place_of_threads,
    places_along,
    places_of_means,
    stack,
    store_channels,
    sum_over_channels,
    sum_over_components,
    unstack,
)
from .triton_tables import COLUMNS

WARP = tl.constexpr(32)
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _scaled(values, factor):
    scaled = ()
    for index in tl.static_range(len(values)):
        scaled = scaled + (factor * values[index],)
    return scaled


@triton.jit
def _added(values, others, factor):
    """values + factor others."""
    added = ()
    for index in tl.static_range(len(values)):
        added = added + (values[index] + factor * others[index],)
    return added


@triton.jit
def _product(values, others):
    """The inner product of what a thread holds of two tuples."""
    total = values[0] * others[0]
    for index in tl.static_range(1, len(values)):
        total += values[index] * others[index]
    return total


@triton.jit
def _mixed(m, weights, CHANNELS: tl.constexpr):
    """sum_k weights_k m_k over the components of a thread, for each of its channels."""
    mixed = ()
    for c in tl.static_range(CHANNELS):
        value = weights[0] * m[c]
        for k in tl.static_range(1, len(weights)):
            value += weights[k] * m[k * CHANNELS + c]
        mixed = mixed + (value,)
    return mixed


@triton.jit
def _whole(mixed, KLANES: tl.constexpr, CLANES: tl.constexpr):
    """What :func:`_mixed` gives, over all components."""
    whole = ()
    for c in tl.static_range(len(mixed)):
        whole = whole + (sum_over_components(mixed[c], KLANES, CLANES),)
    return whole


@triton.jit
def _read_mixture(
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
    places, there = places_of_means(first, means_strides, inside, lanes, K, C, KLANES, CLANES)
    m = unstack(tl.load(places, mask=there, other=0).to(dtype), COUNT * CHANNELS)
    square = ()
    for k in tl.static_range(COUNT):
        total = m[k * CHANNELS] * m[k * CHANNELS]
        for c in tl.static_range(1, CHANNELS):
            total += m[k * CHANNELS + c] * m[k * CHANNELS + c]
        square = square + (total,)
    first = logweights + offsets(sample, space, logweights_strides, 3)
    places, k = places_along(first, logweights_strides[1], lanes[0], KLANES, triton.next_power_of_2(COUNT))
    kept = k < K
    prior = tl.load(places, mask=kept & inside[None, :], other=0).to(dtype)
    if DROPPED:
        kept = kept & (tl.load(dropped + sample * K + k, mask=kept, other=1) == 0)
    prior = tl.where(kept, (prior * inverse_temperature).to(dtype), float("-inf"))
    return m, square, unstack(tl.where((lanes[1] == 0)[None, :], prior, 0), COUNT)


@triton.jit
def _scalars(table, width, step):
    """The scalars p, q, s, a, b, c, change, weight, kappa, a_logstd and b_logstd of a substep, or of the nearest one.

    The loops read them a substep ahead, so that nothing waits for memory.
    """
    row = table + tl.minimum(tl.maximum(step, 0), width - 1) * COLUMNS
    values = ()
    for column in tl.static_range(COLUMNS):
        values = values + (tl.load(row + column),)
    return values


@triton.jit
def _query(y, source, at):
    """p y + q x_s, whose product with a mean is the mean's energy but for the term of its square."""
    return _added(_scaled(source, at[1]), y, at[0])


@triton.jit
def _weigh(m, square, prior, query, s, KLANES: tl.constexpr, CLANES: tl.constexpr):
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
def _velocity(m, square, prior, y, source, at, KLANES: tl.constexpr, CLANES: tl.constexpr):
    """Velocity a y + b x_s + c sum_k w_k m_k of the substep with the scalars ``at``."""
    weights, total = _weigh(m, square, prior, _query(y, source, at), at[2], KLANES, CLANES)
    u = _added(_scaled(y, at[3]), source, at[4])
    return _added(u, _whole(_mixed(m, weights, len(y)), KLANES, CLANES), at[5] / total)


@triton.jit
def forward_kernel(
    means, logweights, x, x_src, dropped, scalars, ends, out,
    batch, positions, blocks, width, size1, size2,
    means_strides, logweights_strides, x_strides, src_strides, inverse_temperature: tl.float64,
    LEGS: tl.constexpr, DROPPED: tl.constexpr, INTEGRATE: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, KLANES: tl.constexpr, CLANES: tl.constexpr, THREADS: tl.constexpr,
):  # fmt: skip
    """States at the ends of legs, out (LEGS, B, C, positions), or the integral of velocities, out (B, C, positions)."""
    dtype: tl.constexpr = scalars.dtype.element_ty
    sample, position, inside, lanes = place_of_threads(positions, blocks, KLANES, CLANES, THREADS)
    space = axes_of_space(position, size1, size2)
    m, square, prior = _read_mixture(
        means, logweights, dropped, means_strides, logweights_strides, sample, space, inside, lanes,
        inverse_temperature, DROPPED, K, C, KLANES, CLANES, dtype,
    )  # fmt: skip
    place = x_src + offsets(sample, space, src_strides, 2)
    source = load_channels(place, src_strides[1], inside, lanes, C, CLANES, dtype)
    start = x + offsets(sample, space, x_strides, 2)
    y = _added(load_channels(start, x_strides[1], inside, lanes, C, CLANES, dtype), source, -1)
    total = _scaled(y, 0)
    place = out + sample * C * positions + position
    table = scalars + sample * width * COLUMNS
    at = _scalars(table, width, 0)
    first = 0
    for leg in range(LEGS):
        last = tl.load(ends + sample * LEGS + leg)
        for step in range(first, last):
            ahead = _scalars(table, width, step + 1)
            u = _velocity(m, square, prior, y, source, at, KLANES, CLANES)
            y = _added(y, u, at[6])
            if INTEGRATE:
                total = _added(total, u, at[7])
            at = ahead
        first = last
        if not INTEGRATE:
            # The change is added to x itself, so that a rollout of length zero returns x bit for bit.
            begin = load_channels(start, x_strides[1], inside, lanes, C, CLANES, dtype)
            state = _added(begin, _added(y, _added(begin, source, -1), -1), 1)
            store_channels(place, positions, state, inside, lanes, C, CLANES)
            place += tl.cast(batch, tl.int64) * C * positions
    if INTEGRATE:
        store_channels(place, positions, total, inside, lanes, C, CLANES)


@triton.jit
def _slopes(m, weights, total, pull, KLANES: tl.constexpr, CLANES: tl.constexpr):
    """Normalised weights w_k, the adjoints w_k (m_k.pull - M.pull) of the logits, and M.pull with M = sum_k w_k m_k."""
    normalised = _scaled(weights, 1 / total)
    responses = ()
    for k in tl.static_range(len(weights)):
        response = m[k * len(pull)] * pull[0]
        for c in tl.static_range(1, len(pull)):
            response += m[k * len(pull) + c] * pull[c]
        responses = responses + (sum_over_channels(response, KLANES, CLANES),)
    expected = sum_over_components(_product(normalised, responses), KLANES, CLANES)
    slopes = ()
    for k in tl.static_range(len(weights)):
        slopes = slopes + (normalised[k] * (responses[k] - expected),)
    return normalised, slopes, expected


@triton.jit
def _gradients_of_means(sums, weights, slopes, pull, query):
    """``sums`` with the gradients w_k pull - slope_k query of one substep added."""
    added = ()
    for k in tl.static_range(len(weights)):
        for c in tl.static_range(len(pull)):
            added = added + (sums[k * len(pull) + c] + weights[k] * pull[c] - slopes[k] * query[c],)
    return added


@triton.jit
def _with_squares(sums, m, sum_square):
    """Gradients of the means, those through their squares added."""
    CHANNELS: tl.constexpr = len(m) // len(sum_square)
    added = ()
    for k in tl.static_range(len(sum_square)):
        for c in tl.static_range(CHANNELS):
            added = added + (sums[k * CHANNELS + c] - 2 * sum_square[k] * m[k * CHANNELS + c],)
    return added


@triton.jit
def backward_kernel(
    means, logweights, x, x_src, grad_means, grad_logweights, dropped, scalars, ends, grad, path, grad_x, grad_logstds,
    batch, positions, blocks, width, size1, size2,
    means_strides, logweights_strides, x_strides, src_strides, grad_means_strides, grad_logweights_strides,
    inverse_temperature: tl.float64,
    LEGS: tl.constexpr, DROPPED: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, KLANES: tl.constexpr, CLANES: tl.constexpr, THREADS: tl.constexpr,
):  # fmt: skip
    """Adjoint of velocities integrated over one leg.

    path (width, B, C, positions) is scratch, of which a thread reads what it wrote itself; grad_logstds (B, blocks,
    warps). With w the posterior weights, M = sum w m, E_k = m_k.query + s |m_k|^2 and U the adjoint of the velocity:
    dlogit_k = c w_k (m_k.U - M.U), and all else follows by the product rule on the equations of ``coefficients``.
    """
    dtype: tl.constexpr = scalars.dtype.element_ty
    sample, position, inside, lanes = place_of_threads(positions, blocks, KLANES, CLANES, THREADS)
    space = axes_of_space(position, size1, size2)
    m, square, prior = _read_mixture(
        means, logweights, dropped, means_strides, logweights_strides, sample, space, inside, lanes,
        inverse_temperature, DROPPED, K, C, KLANES, CLANES, dtype,
    )  # fmt: skip
    source = load_channels(
        x_src + offsets(sample, space, src_strides, 2), src_strides[1], inside, lanes, C, CLANES, dtype
    )
    y = load_channels(x + offsets(sample, space, x_strides, 2), x_strides[1], inside, lanes, C, CLANES, dtype)
    y = _added(y, source, -1)
    within = sample * C * positions + position
    upstream = load_channels(grad + within, positions, inside, lanes, C, CLANES, dtype)
    stride = tl.cast(batch, tl.int64) * C * positions
    last = tl.load(ends + sample)
    table = scalars + sample * width * COLUMNS
    at = _scalars(table, width, 0)
    for step in range(last):
        ahead = _scalars(table, width, step + 1)
        store_channels(path + within + step * stride, positions, y, inside, lanes, C, CLANES)
        y = _added(y, _velocity(m, square, prior, y, source, at, KLANES, CLANES), at[6])
        at = ahead

    state = _scaled(y, 0)
    sum_means = _scaled(m, 0)
    sum_prior = _scaled(square, 0)
    sum_square = _scaled(square, 0)
    share = tl.zeros_like(y[0])
    at = _scalars(table, width, last - 1)
    for back in range(last):
        step = last - 1 - back
        ahead = _scalars(table, width, step - 1)
        y = load_channels(path + within + step * stride, positions, inside, lanes, C, CLANES, dtype)
        query = _query(y, source, at)
        weights, total = _weigh(m, square, prior, query, at[2], KLANES, CLANES)
        adjoint = _added(_scaled(upstream, at[7]), state, at[6])
        pull = _scaled(adjoint, at[5])
        weights, slopes, expected = _slopes(m, weights, total, pull, KLANES, CLANES)
        sum_means = _gradients_of_means(sum_means, weights, slopes, pull, query)
        sum_square = _added(sum_square, slopes, at[2])
        sum_prior = _added(sum_prior, slopes, 1)
        pushed = _mixed(m, slopes, len(y))
        # Of sums over all components and channels each lane has its share: of sum_k slope_k E_k what it holds itself,
        # and of what lies in several lanes the fraction.
        share += at[8] * (_product(pushed, query) + at[2] * _product(slopes, square))
        share += _product(adjoint, _added(_scaled(y, at[9]), source, at[10])) / KLANES
        share -= at[8] * expected / (KLANES * CLANES)
        state = _added(state, adjoint, at[3])
        state = _added(state, _whole(pushed, KLANES, CLANES), -at[0])
        at = ahead

    place = grad_means + offsets(sample, space, grad_means_strides, 3)
    places, there = places_of_means(place, grad_means_strides, inside, lanes, K, C, KLANES, CLANES)
    tl.store(places, stack(_with_squares(sum_means, m, sum_square), places.shape[0]), mask=there)
    place = grad_logweights + offsets(sample, space, grad_logweights_strides, 3)
    WIDTH: tl.constexpr = triton.next_power_of_2(len(prior))
    places, k = places_along(place, grad_logweights_strides[1], lanes[0], KLANES, WIDTH)
    sum_prior = (stack(sum_prior, WIDTH) * inverse_temperature).to(dtype)
    tl.store(places, sum_prior, mask=inside[None, :] & (k < K))
    store_channels(grad_x + within, positions, state, inside, lanes, C, CLANES)
    # All threads of a warp write the same.
    warp = tl.program_id(0) * (THREADS // WARP) + tl.arange(0, THREADS) // WARP
    tl.store(grad_logstds + warp, sum_over_channels(share, 1, WARP))
