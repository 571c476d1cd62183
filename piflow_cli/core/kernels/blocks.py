"""Blocks of a GM rollout on the CPU: few enough numbers to stay in the processor's cache through all substeps."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import ceil, prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..coefficients import GMCoefficients
from ..policies.gmflow import GMFlowPolicy
from .layout import flatten_positions, working_dtype

BLOCK_ELEMENTS = 1 << 20  # numbers a substep of a block reads; about what two second-level caches hold measured best
FEW = 8  # components up to which torch.softmax over the first axis takes half the time of its steps; later it is twice
LEAST_LOGIT = -80  # below it exp() leaves the normal numbers of float32, where it takes ten times as long
REGROUP = 3 / 4  # finished samples are carried along until fewer than this share of a block is still moving


class CpuTable(NamedTuple):
    """Scalars of a rollout, each (B, steps) float64; ``ends`` (B, legs), the substeps taken when each leg is done."""

    scalars: GMCoefficients
    ends: Tensor


class Block(NamedTuple):
    """R samples at P positions each, in the working dtype: what all substeps of a block share.

    ``rows`` says which samples, longest rollout first, ``span`` which positions; means (K, C, R, P), logweights
    (K, R, P), x and x_src (C, R, P); scalars each (R, steps) float64; ends (R, legs).
    """

    rows: Tensor | slice
    span: slice
    means: Tensor
    logweights: Tensor
    x: Tensor
    x_src: Tensor
    scalars: GMCoefficients
    ends: Tensor

    def substeps(self, *columns: Tensor) -> Callable[[int, int, int], Iterator[tuple[Tensor, ...]]]:
        """A function of (first, last, active) that yields scalars (R, 1) substep by substep.

        ``columns`` (R, steps): of the first ``active`` samples it takes the substeps from ``first`` up to ``last``.
        """
        table = torch.stack(columns).to(self.x.dtype).transpose(1, 2).unsqueeze(3).contiguous()
        return lambda first, last, active: zip(*(column.unbind(0) for column in table[:, first:last, :active]))


def stretches(counts: list[int]) -> Iterator[tuple[int, int, int]]:
    """(first, last, active): runs of substeps and how many leading samples move there, for ``counts`` longest first."""
    first = 0
    while first < counts[0]:
        active = bisect_left(counts, -first, key=lambda count: -count)
        last = counts[ceil(REGROUP * active) - 1]
        yield first, last, active
        first = last


def stops(ends: Tensor) -> dict[int, list[tuple[int, int]]]:
    """Substeps taken → (leg, sample) of each leg but the last that ends there; ``ends`` (R, legs).

    The last leg needs no mark: a sample that is done stands still until its block is.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    for sample, counts in enumerate(ends[:, :-1].tolist()):
        for leg, count in enumerate(counts):
            found.setdefault(count, []).append((leg, sample))
    return found


def add_products(out: Tensor, left: Iterable[Tensor], right: Iterable[Tensor], sign: int = 1) -> Tensor:
    """out + sign * sum of left * right, in place and a pair at a time: no product goes through memory."""
    for one, other in zip(left, right):
        out.addcmul_(one, other, value=sign)
    return out


def sum_products(left: Sequence[Tensor], right: Sequence[Tensor], out: Tensor) -> Tensor:
    """The sum of left * right, in ``out``."""
    return add_products(torch.mul(left[0], right[0], out=out), left[1:], right[1:])


def carve(scratch: Tensor, *shapes: Sequence[int]) -> list[Tensor]:
    """Buffers of these shapes, cut from one flat tensor: the system is asked for memory once."""
    sizes = [prod(shape) for shape in shapes]
    return [part.view(shape) for part, shape in zip(scratch[: sum(sizes)].split(sizes), shapes)]


def weigh(logits: Tensor, out: Tensor) -> Tensor:
    """Softmax of logits (K, R, P) over K, in ``out``."""
    if len(logits) <= FEW:
        return torch.softmax(logits, 0, out=out)
    torch.sub(logits, torch.amax(logits, 0), out=out).clamp_(min=LEAST_LOGIT).exp_()
    return out.div_(torch.sum(out, 0))


def blocks(policy: GMFlowPolicy, x: Tensor, table: CpuTable) -> Iterator[Block]:
    """Cut a rollout into blocks of about BLOCK_ELEMENTS: several samples of like length, or positions of one."""
    components, channels = policy.means.shape[1:3]
    each = components * min(components, channels)  # numbers a substep reads for a position: its means or their products
    positions = math.prod(x.shape[2:])
    together = max(1, BLOCK_ELEMENTS // (each * positions))
    width = positions if together > 1 else max(1, BLOCK_ELEMENTS // each)
    order = table.ends[:, -1].argsort(descending=True, stable=True)
    for rows in order.split(together):
        yield from _blocks_of_rows(policy, x, table, _as_slice(rows), width)


def _as_slice(rows: Tensor) -> Tensor | slice:
    """``rows`` as a slice where they follow each other, so that indexing gives a view."""
    first = int(rows[0])
    return slice(first, first + len(rows)) if (rows.diff() == 1).all() else rows


def _blocks_of_rows(
    policy: GMFlowPolicy, x: Tensor, table: CpuTable, rows: Tensor | slice, width: int
) -> Iterator[Block]:
    dtype = working_dtype(policy.means, x)
    ends = table.ends[rows]
    scalars = GMCoefficients(*(column[rows, : int(ends[0, -1])] for column in table.scalars))
    means, logweights, states, sources = (
        flatten_positions(value[rows], space)
        for value, space in ((policy.means, 3), (policy.logweights, 3), (x, 2), (policy.x_src, 2))
    )
    for start in range(0, means.shape[-1], width):
        span = slice(start, min(start + width, means.shape[-1]))
        tile, prior, state, source = (
            value[..., span].movedim(0, -2).to(dtype).contiguous() for value in (means, logweights, states, sources)
        )
        prior = prior[:, 0] if policy.temperature == 1 else prior[:, 0] / policy.temperature
        if policy.dropped is not None:
            prior = prior.masked_fill(policy.dropped[rows].T.unsqueeze(2), -torch.inf)
        yield Block(rows, span, tile, prior, state, source, scalars, ends)


def part_of(value: Tensor, block: Block) -> Tensor:
    """The part of a tensor (B, ..., P) that a block covers, (..., R, P): a view where its samples follow each other."""
    return value[block.rows][..., block.span].movedim(0, -2)


def place(out: Tensor, block: Block, value: Tensor) -> None:
    """Write (..., R, P) where the samples and positions of a block lie in ``out`` (B, ..., P)."""
    out[block.rows, ..., block.span] = value.movedim(-2, 0).to(out.dtype)
