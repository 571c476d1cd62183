"""The Triton kernels of momentum rollouts: the closed form, and its adjoint.

A program owns positions of one sample with all of their channels. What belongs to a component is a vector (BLOCK,),
one entry a position; what belongs to a state is a tile (BLOCK, CP).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_lanes import axes_of_space, offsets
from .triton_tables import sigma_of, substeps_of

# The series is the better one further out than it is for autograd: e^z - 1 without expm1 loses digits below 1. So many
# terms give it to float64's precision there.
SERIES_BELOW = tl.constexpr(1.0)
SERIES_TERMS = tl.constexpr(19)


@triton.jit
def _growth(loggamma, past, length):
    """g = gamma^past phi(z) with phi(z) = (e^z - 1) / z at z = length ln gamma, and the derivative of g in ln gamma."""
    z = length * loggamma
    near = tl.abs(z) < SERIES_BELOW
    small = tl.where(near, z, 0)
    series, slope = tl.zeros_like(z) + 1, tl.zeros_like(z)
    for index in tl.static_range(SERIES_TERMS):
        # phi(z) = 1 + z / 2 (1 + z / 3 (1 + ...)), from within, with its derivative. A factor with a name of its own
        # would be rounded to float32.
        slope = (series + small * slope) * (1.0 / (SERIES_TERMS + 1 - index))
        series = 1 + small * series * (1.0 / (SERIES_TERMS + 1 - index))
    large, power = tl.where(near, 1, z), tl.exp(z)
    far = (power - 1) / large
    phi = tl.where(near, series, far)
    of_phi = tl.where(near, slope, (power - far) / large)
    grown = tl.exp(past * loggamma)
    return grown * phi, grown * (past * phi + length * of_phi)


@triton.jit
def _leg_of(source, raw_from, raw_to, substeps, shift, ADDED: tl.constexpr, dtype: tl.constexpr):
    """What is past of sigma at the start of a leg, the leg's length in sigma, and the factor of its mean velocity."""
    start = sigma_of(raw_from, shift)
    past, length = sigma_of(source, shift) - start, start - sigma_of(raw_to, shift)
    if ADDED:
        return past.to(dtype), length.to(dtype), (-length).to(dtype)
    else:
        # Below two substeps the mean velocity is that at the start, as of all policies.
        length = tl.where(substeps_of(raw_from - raw_to, substeps) < 2, 0.0, length)
        return past.to(dtype), length.to(dtype), (length * 0 + 1).to(dtype)


@triton.jit
def _logweight(first, stride, dropped, k, there, DROPPED: tl.constexpr, dtype: tl.constexpr):
    """The log-weight of component ``k``, minus infinity where it is dropped."""
    value = tl.load(first + k * stride, mask=there, other=0).to(dtype)
    if DROPPED:
        value = tl.where(tl.load(dropped + k) == 0, value, float("-inf"))
    return value


@triton.jit
def _loggamma(first, stride, k, there, dtype: tl.constexpr):
    """ln gamma of component ``k``, zero of the first."""
    return tl.load(first + (k - 1) * stride, mask=there & (k > 0), other=0).to(dtype)


@triton.jit
def _normaliser(first, stride, dropped, there, DROPPED: tl.constexpr, K: tl.constexpr, dtype: tl.constexpr):
    """The largest log-weight of a position, and the sum over its components of exp(log-weight - largest)."""
    top = _logweight(first, stride, dropped, 0, there, DROPPED, dtype)
    for k in range(1, K):
        top = tl.maximum(top, _logweight(first, stride, dropped, k, there, DROPPED, dtype))
    total = tl.zeros_like(top)
    for k in range(K):
        total += tl.exp(_logweight(first, stride, dropped, k, there, DROPPED, dtype) - top)
    return top, total


@triton.jit
def _place(blocks, positions, size1, size2, C: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr):
    """The sample of this program; its positions, their places in space and whether they are there; channels; a tile."""
    position = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    sample = tl.cast(tl.program_id(0) // blocks, tl.int64)
    channel = tl.arange(0, CP)
    there = position < positions
    inside = there[:, None] & (channel < C)[None, :]
    return sample, position, axes_of_space(position, size1, size2), there, channel.to(tl.int64), inside


@triton.jit
def _open_mixture(
    means, logweights, loggammas, dropped, means_strides, logweights_strides, loggammas_strides,
    sample, space, channel, there, DROPPED: tl.constexpr, K: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """Where the parameters of component 0 lie, how far from one component to the next, and what weights are made of."""
    first = (means + offsets(sample, space, means_strides, 3))[:, None] + (channel * means_strides[2])[None, :]
    weights = logweights + offsets(sample, space, logweights_strides, 3)
    rates = loggammas + offsets(sample, space, loggammas_strides, 3)
    marks = dropped + sample * K
    top, total = _normaliser(weights, logweights_strides[1], marks, there, DROPPED, K, dtype)
    strides = (means_strides[1], logweights_strides[1], loggammas_strides[1])
    return first, weights, rates, marks, strides, top, total


@triton.jit
def _component(mixture, k, past, length, there, inside, DROPPED: tl.constexpr, dtype: tl.constexpr):
    """Weight, growth with its derivative in ln gamma, and mean of component ``k``."""
    first, weights, rates, marks, strides, top, total = mixture
    weight = tl.exp(_logweight(weights, strides[1], marks, k, there, DROPPED, dtype) - top) / total
    grown, slope = _growth(_loggamma(rates, strides[2], k, there, dtype), past, length)
    return weight, grown, slope, tl.load(first + k * strides[0], mask=inside, other=0).to(dtype)


@triton.jit
def momentum_kernel(
    means, logweights, loggammas, x, dropped, raw_src, raw_start, raw_ends, out,
    batch, positions, blocks, size1, size2, means_strides, logweights_strides, loggammas_strides, x_strides,
    src_stride, start_stride, leg_stride, end_stride, substeps, shift: tl.float64,
    ADDED: tl.constexpr, DROPPED: tl.constexpr, LEGS: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out (LEGS, B, C, positions): states from ``x`` on, where ADDED; else the mean velocity of each leg."""
    dtype: tl.constexpr = out.dtype.element_ty
    sample, position, space, there, channel, inside = _place(blocks, positions, size1, size2, C, CP, BLOCK)
    mixture = _open_mixture(
        means, logweights, loggammas, dropped, means_strides, logweights_strides, loggammas_strides,
        sample, space, channel, there, DROPPED, K, dtype,
    )  # fmt: skip
    state = tl.zeros([BLOCK, CP], dtype=dtype)
    if ADDED:
        place = (x + offsets(sample, space, x_strides, 2))[:, None] + (channel * x_strides[1])[None, :]
        state = tl.load(place, mask=inside, other=0).to(dtype)
    place = out + sample * C * positions + position[:, None] + (channel * positions)[None, :]
    source, raw_from = tl.load(raw_src + sample * src_stride), tl.load(raw_start + sample * start_stride)
    for leg in range(LEGS):
        raw_to = tl.load(raw_ends + leg * leg_stride + sample * end_stride)
        past, length, factor = _leg_of(source, raw_from, raw_to, substeps, shift, ADDED, dtype)
        mean = tl.zeros([BLOCK, CP], dtype=dtype)
        for k in range(K):
            weight, grown, _, velocity = _component(mixture, k, past, length, there, inside, DROPPED, dtype)
            mean += (weight * grown)[:, None] * velocity
        if ADDED:
            state += factor * mean
        else:
            state = mean
        tl.store(place, state, mask=inside)
        place += tl.cast(batch, tl.int64) * C * positions
        raw_from = raw_to


@triton.jit
def momentum_adjoint_kernel(
    means, logweights, loggammas, grad_means, grad_logweights, grad_loggammas,
    dropped, raw_src, raw_start, raw_ends, grad,
    batch, positions, blocks, size1, size2, means_strides, logweights_strides, loggammas_strides,
    grad_means_strides, grad_logweights_strides, grad_loggammas_strides,
    src_stride, start_stride, leg_stride, end_stride, substeps, shift: tl.float64,
    ADDED: tl.constexpr, DROPPED: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The adjoint of :func:`momentum_kernel` for grad (B, C, positions) of one leg.

    With w the weights, g the growths, U the adjoint of the mean velocity and a_k = U.u_k: that of u_k is w_k g_k U, of
    the log-weight w_k (g_k a_k - sum_j w_j g_j a_j), of ln gamma w_k a_k times the derivative of g_k.
    """
    dtype: tl.constexpr = grad.dtype.element_ty
    sample, position, space, there, channel, inside = _place(blocks, positions, size1, size2, C, CP, BLOCK)
    mixture = _open_mixture(
        means, logweights, loggammas, dropped, means_strides, logweights_strides, loggammas_strides,
        sample, space, channel, there, DROPPED, K, dtype,
    )  # fmt: skip
    source, raw_from = tl.load(raw_src + sample * src_stride), tl.load(raw_start + sample * start_stride)
    raw_to = tl.load(raw_ends + sample * end_stride)
    past, length, factor = _leg_of(source, raw_from, raw_to, substeps, shift, ADDED, dtype)
    place = grad + sample * C * positions + position[:, None] + (channel * positions)[None, :]
    upstream = factor * tl.load(place, mask=inside, other=0)

    expected = tl.zeros([BLOCK], dtype=dtype)
    for k in range(K):
        weight, grown, _, velocity = _component(mixture, k, past, length, there, inside, DROPPED, dtype)
        expected += weight * grown * tl.sum(upstream * velocity, axis=1)

    of_means = (grad_means + offsets(sample, space, grad_means_strides, 3))[:, None]
    of_means += (channel * grad_means_strides[2])[None, :]
    of_weights = grad_logweights + offsets(sample, space, grad_logweights_strides, 3)
    of_rates = grad_loggammas + offsets(sample, space, grad_loggammas_strides, 3)
    for k in range(K):
        weight, grown, slope, velocity = _component(mixture, k, past, length, there, inside, DROPPED, dtype)
        response = tl.sum(upstream * velocity, axis=1)
        tl.store(of_means + k * grad_means_strides[1], (weight * grown)[:, None] * upstream, mask=inside)
        tl.store(of_weights + k * grad_logweights_strides[1], weight * (grown * response - expected), mask=there)
        of_rate = weight * slope * response
        tl.store(of_rates + (k - 1) * grad_loggammas_strides[1], of_rate, mask=there & (k > 0))
