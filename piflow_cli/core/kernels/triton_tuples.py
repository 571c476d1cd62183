"""Arithmetic on tuples of vectors, entry by entry: Triton unrolls them, and a thread keeps its entries in registers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def zeros(values):
    """As many zeros."""
    found = ()
    for index in tl.static_range(len(values)):
        found = found + (tl.zeros_like(values[index]),)
    return found


@triton.jit
def scaled(values, factor):
    """factor values."""
    found = ()
    for index in tl.static_range(len(values)):
        found = found + (factor * values[index],)
    return found


@triton.jit
def added(values, others, factor):
    """values + factor others."""
    found = ()
    for index in tl.static_range(len(values)):
        found = found + (values[index] + factor * others[index],)
    return found


@triton.jit
def product(values, others):
    """The inner product."""
    total = values[0] * others[0]
    for index in tl.static_range(1, len(values)):
        total += values[index] * others[index]
    return total
