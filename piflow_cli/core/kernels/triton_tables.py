"""Tables that Triton computes for each sample, in float64: times of substeps, coefficients of a GM rollout."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = tl.constexpr(11)
SIGMA_FLOOR = tl.constexpr(1e-6)
DENOMINATOR_FLOOR = tl.constexpr(1e-6)


def times_of(raw_src: Tensor, raws: list[Tensor], device: torch.device) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Raw times float64 on ``device`` and their strides: of the source (B,), the start (B,), the ends (legs, B).

    They are read where they lie; only the ends of several legs are put together.
    """
    source, start, *ends = (raw.to(device, torch.float64) for raw in (raw_src, *raws))
    stops = ends[0].unsqueeze(0) if len(ends) == 1 else torch.stack(ends)
    return (source, start, stops), (source.stride(0), start.stride(0), *stops.stride())


@triton.jit
def sigma_of(raw, shift):
    """Noise level of a raw time, as :func:`piflow_cli.core.timegrid.to_sigma` has it."""
    return shift * raw / (1 + (shift - 1) * raw)


@triton.jit
def substeps_of(interval, substeps):
    """max(1, round(substeps * interval)), halves to even as torch.round has them."""
    exact = interval * substeps
    rounded = tl.floor(exact + 0.5)
    odd = rounded - 2 * tl.floor(rounded / 2) == 1
    return tl.maximum(tl.where((rounded - exact == 0.5) & odd, rounded - 1, rounded), 1)


@triton.jit
def table_kernel(
    raw_src, raw_start, raw_ends, logstds, scalars, ends,
    src_stride, start_stride, leg_stride, end_stride, logstd_stride, width, substeps,
    shift: tl.float64, temperature: tl.float64,
    LEGS: tl.constexpr, AVERAGED: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Scalars of one sample's substeps, leg after leg: raw_src (B,), raw_start (B,), raw_ends (legs, B)."""
    sample = tl.program_id(0).to(tl.int64)
    sigma_src = tl.maximum(sigma_of(tl.load(raw_src + sample * src_stride), shift), SIGMA_FLOOR)
    odds_src = (1 - sigma_src) / sigma_src
    logstd = tl.load(logstds + sample * logstd_stride).to(tl.float64)
    variance = tl.exp(2 * logstd) * sigma_src * sigma_src * temperature
    step = tl.arange(0, WIDTH)
    first = 0
    raw_from = tl.load(raw_start + sample * start_stride)
    for leg in range(LEGS):
        raw_to = tl.load(raw_ends + leg * leg_stride + sample * end_stride)
        exact = tl.minimum(substeps_of(raw_from - raw_to, substeps), width - first)
        raw = raw_from + (raw_to - raw_from) * (step / exact)
        following = raw_from + (raw_to - raw_from) * ((step + 1) / exact)
        change = sigma_of(following, shift) - sigma_of(raw, shift)
        weight = change
        if AVERAGED:
            total = sigma_of(raw_to, shift) - sigma_of(raw_from, shift)
            weight = tl.where(total < 0, change / tl.where(total < 0, total, -1.0), tl.where(step == 0, 1.0, 0.0))
        sigma = tl.maximum(sigma_of(raw, shift), SIGMA_FLOOR)
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
        raw_from = raw_to
