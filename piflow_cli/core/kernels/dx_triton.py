"""The coefficients of a DX rollout from one small Triton kernel, where PyTorch would launch some thirty."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..policies.dx import DXPolicy
from .layout import LinearMap
from .triton_tables import SIGMA_FLOOR, sigma_of, substeps_of


def linear_map(policy: DXPolicy, raws: list[Tensor], substeps: int, *, averaged: bool) -> LinearMap:
    """The same as :func:`piflow_cli.core.kernels.dx.linear_map`, without asking the device for a number."""
    batch, points = policy.grid.shape[:2]
    device, legs = policy.grid.device, len(raws) - 1
    times = torch.stack([raw.to(device, torch.float64) for raw in (policy.raw_src, *raws)])
    gain = torch.empty(batch, legs, device=device, dtype=torch.float64)
    beta = torch.empty(batch, legs, points, device=device, dtype=torch.float64)
    with torch.cuda.device_of(gain):
        map_kernel[(batch,)](
            times, gain, beta, batch, substeps, policy.shift, policy.segment,
            LEGS=legs, AVERAGED=averaged, POLYNOMIAL=policy.polynomial, N=points, NP=triton.next_power_of_2(points),
            num_warps=1,
        )  # fmt: skip
    return LinearMap(gain, beta)


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
    times, gain, beta, batch, substeps, shift: tl.float64, segment: tl.float64,
    LEGS: tl.constexpr, AVERAGED: tl.constexpr, POLYNOMIAL: tl.constexpr, N: tl.constexpr, NP: tl.constexpr,
):  # fmt: skip
    """gain (B, LEGS) and beta (B, LEGS, N) of one sample. times (LEGS + 2, B): the source, then the ends of the legs.

    A substep turns gain x + sum beta_n x_0^n of all before it, so that both follow by one recursion.
    """
    sample = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, NP)
    source = tl.load(times + sample)
    # A segment that would end below raw time 0 ends there.
    segment = tl.minimum(tl.maximum(source, SIGMA_FLOOR), segment)
    moved = source * 0
    weights = moved + tl.zeros([NP], dtype=tl.float64)
    for leg in range(LEGS):
        raw_from = tl.load(times + (leg + 1) * batch + sample)
        raw_to = tl.load(times + (leg + 2) * batch + sample)
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
