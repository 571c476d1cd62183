"""The Triton kernels of GM rollouts: every substep of a position in the registers of a thread, or of a few lanes.

All values are vectors with one entry a thread, and tuples of them: means in the order (k, c), what belongs to a
component, what belongs to a channel (see :mod:`.triton_lanes`). A position whose means are too many for one thread is
shared by neighbouring lanes of a warp. A sum over what they share out costs a few shuffles, every other sum costs
none, and no warp waits for another. Concatenation is how Triton's language adds to a tuple.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .gm_triton_mixture import mixed, over_components, query_of, read_mixture, scalars_of, velocity, weigh
from .triton_lanes import (
    axes_of_space,
    load_along,
    load_state,
    offsets,
    place_of_threads,
    store_along,
    store_means,
    sum_over_channels,
    sum_over_components,
)
from .triton_tables import COLUMNS
from .triton_tuples import added, product, scaled, zeros

WARP = tl.constexpr(32)
# They change from launch to launch. A kernel of its own for a 1 or a multiple of 16 is not worth the seconds.
SIZES = ["batch", "positions", "blocks", "width", "size1", "size2"]


@triton.jit(do_not_specialize=SIZES)
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
    m, square, prior = read_mixture(
        means, logweights, dropped, means_strides, logweights_strides, sample, space, inside, lanes,
        inverse_temperature, DROPPED, K, C, KLANES, CLANES, dtype,
    )  # fmt: skip
    source = load_state(x_src, src_strides, sample, space, inside, lanes, C, CLANES, dtype)
    y = added(load_state(x, x_strides, sample, space, inside, lanes, C, CLANES, dtype), source, -1)
    total = zeros(y)
    place = out + sample * C * positions + position
    table = scalars + sample * width * COLUMNS
    at = scalars_of(table, width, 0)
    for leg in range(LEGS):
        # Triton 3.6 forgets a value that one loop hands on if no more than the bounds of another use it.
        first = tl.load(ends + sample * LEGS + leg - 1, mask=leg > 0, other=0)
        last = tl.load(ends + sample * LEGS + leg)
        for step in range(first, last):
            ahead = scalars_of(table, width, step + 1)
            u = velocity(m, square, prior, y, source, at, KLANES, CLANES)
            y = added(y, u, at[6])
            if INTEGRATE:
                total = added(total, u, at[7])
            at = ahead
        if not INTEGRATE:
            # The change is added to x itself, so that a rollout of length zero returns x bit for bit.
            begin = load_state(x, x_strides, sample, space, inside, lanes, C, CLANES, dtype)
            state = added(begin, added(y, added(begin, source, -1), -1), 1)
            store_along(place, positions, lanes[1], inside, state, C, CLANES)
            place += tl.cast(batch, tl.int64) * C * positions
    if INTEGRATE:
        store_along(place, positions, lanes[1], inside, total, C, CLANES)


@triton.jit
def _store_path(
    place, stride, m, square, prior, y, source, table, width, last, positions, inside, lanes,
    C: tl.constexpr, KLANES: tl.constexpr, CLANES: tl.constexpr,
):  # fmt: skip
    """Store the states that the first ``last`` substeps start from, ``stride`` apart from ``place`` on."""
    at = scalars_of(table, width, 0)
    for step in range(last):
        ahead = scalars_of(table, width, step + 1)
        store_along(place + step * stride, positions, lanes[1], inside, y, C, CLANES)
        y = added(y, velocity(m, square, prior, y, source, at, KLANES, CLANES), at[6])
        at = ahead


@triton.jit
def _slopes(m, weights, total, pull, KLANES: tl.constexpr, CLANES: tl.constexpr):
    """Normalised weights w_k, the adjoints w_k (m_k.pull - M.pull) of the logits, and M.pull with M = sum_k w_k m_k."""
    normalised = scaled(weights, 1 / total)
    responses = ()
    for k in tl.static_range(len(weights)):
        response = m[k * len(pull)] * pull[0]
        for c in tl.static_range(1, len(pull)):
            response += m[k * len(pull) + c] * pull[c]
        responses = responses + (sum_over_channels(response, KLANES, CLANES),)
    expected = sum_over_components(product(normalised, responses), KLANES, CLANES)
    slopes = ()
    for k in tl.static_range(len(weights)):
        slopes = slopes + (normalised[k] * (responses[k] - expected),)
    return normalised, slopes, expected


@triton.jit
def _gradients_of_means(sums, weights, slopes, pull, query):
    """``sums`` with the gradients w_k pull - slope_k query of one substep added."""
    found = ()
    for k in tl.static_range(len(weights)):
        for c in tl.static_range(len(pull)):
            found = found + (sums[k * len(pull) + c] + weights[k] * pull[c] - slopes[k] * query[c],)
    return found


@triton.jit
def _with_squares(sums, m, sum_square):
    """Gradients of the means, those through their squares added."""
    CHANNELS: tl.constexpr = len(m) // len(sum_square)
    found = ()
    for k in tl.static_range(len(sum_square)):
        for c in tl.static_range(CHANNELS):
            found = found + (sums[k * CHANNELS + c] - 2 * sum_square[k] * m[k * CHANNELS + c],)
    return found


@triton.jit
def _share_of_logstd(
    pushed, query, slopes, square, adjoint, y, source, expected, at, KLANES: tl.constexpr, CLANES: tl.constexpr
):
    """What a lane adds to the gradient of the log-std in a substep.

    Of kappa sum_k slope_k E_k it is what the lane holds, and of what lies in several lanes the fraction.
    """
    share = at[8] * (product(pushed, query) + at[2] * product(slopes, square))
    share += product(adjoint, added(scaled(y, at[9]), source, at[10])) / KLANES
    return share - at[8] * expected / (KLANES * CLANES)


@triton.jit
def _walk_back(
    path, stride, m, square, prior, source, upstream, table, width, last, positions, inside, lanes,
    C: tl.constexpr, KLANES: tl.constexpr, CLANES: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """Gradients of the state, means, squares and log-weights, and a lane's share of that of the log-std."""
    state = zeros(source)
    sum_means = zeros(m)
    sum_prior = zeros(square)
    sum_square = zeros(square)
    share = tl.zeros_like(source[0])
    at = scalars_of(table, width, last - 1)
    for back in range(last):
        step = last - 1 - back
        ahead = scalars_of(table, width, step - 1)
        y = load_along(path + step * stride, positions, lanes[1], inside, C, CLANES, dtype)
        query = query_of(y, source, at)
        weights, total = weigh(m, square, prior, query, at[2], KLANES, CLANES)
        adjoint = added(scaled(upstream, at[7]), state, at[6])
        pull = scaled(adjoint, at[5])
        weights, slopes, expected = _slopes(m, weights, total, pull, KLANES, CLANES)
        sum_means = _gradients_of_means(sum_means, weights, slopes, pull, query)
        sum_square = added(sum_square, slopes, at[2])
        sum_prior = added(sum_prior, slopes, 1)
        pushed = mixed(m, slopes, len(y))
        share += _share_of_logstd(pushed, query, slopes, square, adjoint, y, source, expected, at, KLANES, CLANES)
        state = added(added(state, adjoint, at[3]), over_components(pushed, KLANES, CLANES), -at[0])
        at = ahead
    return state, sum_means, sum_square, sum_prior, share


@triton.jit
def _store_gradients(
    grad_means, grad_logweights, means_strides, logweights_strides, m, sum_means, sum_square, sum_prior,
    inverse_temperature, sample, space, inside, lanes,
    K: tl.constexpr, C: tl.constexpr, KLANES: tl.constexpr, CLANES: tl.constexpr,
):  # fmt: skip
    first = grad_means + offsets(sample, space, means_strides, 3)
    store_means(first, means_strides, inside, lanes, _with_squares(sum_means, m, sum_square), K, C, KLANES, CLANES)
    first = grad_logweights + offsets(sample, space, logweights_strides, 3)
    found = ()
    for k in tl.static_range(len(sum_prior)):
        found = found + ((sum_prior[k] * inverse_temperature).to(sum_prior[0].dtype),)
    store_along(first, logweights_strides[1], lanes[0], inside, found, K, KLANES)


@triton.jit(do_not_specialize=SIZES)
def backward_kernel(
    means, logweights, x, x_src, grad_means, grad_logweights, dropped, scalars, ends, grad, path, grad_x, grad_logstds,
    batch, positions, blocks, width, size1, size2,
    means_strides, logweights_strides, x_strides, src_strides, grad_means_strides, grad_logweights_strides,
    inverse_temperature: tl.float64,
    DROPPED: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, KLANES: tl.constexpr, CLANES: tl.constexpr, THREADS: tl.constexpr,
):  # fmt: skip
    """Adjoint of velocities integrated over one leg.

    path (width, B, C, positions) is scratch, of which a thread reads what it wrote itself; grad_logstds (B, blocks,
    warps). With w the posterior weights, M = sum w m, E_k = m_k.query + s |m_k|^2 and U the adjoint of the velocity:
    dlogit_k = slope_k = c w_k (m_k.U - M.U), and all else follows by the product rule on the equations of
    ``coefficients``.
    """
    dtype: tl.constexpr = scalars.dtype.element_ty
    sample, position, inside, lanes = place_of_threads(positions, blocks, KLANES, CLANES, THREADS)
    space = axes_of_space(position, size1, size2)
    m, square, prior = read_mixture(
        means, logweights, dropped, means_strides, logweights_strides, sample, space, inside, lanes,
        inverse_temperature, DROPPED, K, C, KLANES, CLANES, dtype,
    )  # fmt: skip
    source = load_state(x_src, src_strides, sample, space, inside, lanes, C, CLANES, dtype)
    y = added(load_state(x, x_strides, sample, space, inside, lanes, C, CLANES, dtype), source, -1)
    within = sample * C * positions + position
    upstream = load_along(grad + within, positions, lanes[1], inside, C, CLANES, dtype)
    stride = tl.cast(batch, tl.int64) * C * positions
    last = tl.load(ends + sample)
    table = scalars + sample * width * COLUMNS
    _store_path(
        path + within, stride, m, square, prior, y, source, table, width, last, positions, inside, lanes,
        C, KLANES, CLANES,
    )  # fmt: skip

    state, sum_means, sum_square, sum_prior, share = _walk_back(
        path + within, stride, m, square, prior, source, upstream, table, width, last, positions, inside, lanes,
        C, KLANES, CLANES, dtype,
    )  # fmt: skip
    _store_gradients(
        grad_means, grad_logweights, grad_means_strides, grad_logweights_strides, m, sum_means, sum_square, sum_prior,
        inverse_temperature, sample, space, inside, lanes, K, C, KLANES, CLANES,
    )  # fmt: skip
    store_along(grad_x + within, positions, lanes[1], inside, state, C, CLANES)
    # All threads of a warp write the same.
    warp = tl.program_id(0) * (THREADS // WARP) + tl.arange(0, THREADS) // WARP
    tl.store(grad_logstds + warp, sum_over_channels(share, 1, WARP))
