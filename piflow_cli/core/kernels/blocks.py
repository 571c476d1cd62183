"""Blocks of a GM rollout on the CPU: few enough numbers to stay in the processor's cache through all substeps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import ceil, prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..policies.gmflow import GMFlowPolicy
from .layout import flatten_positions, working_dtype

BLOCK_ELEMENTS = 1 << 19  # numbers a substep of a block reads; a few times the second-level cache measured best
FEW = 8  # components up to which torch.softmax over the first axis takes half the time of its steps; later it is twice
LEAST_LOGIT = -80  # below it exp() leaves the normal numbers of float32, where it takes ten times as long
REGROUP = 7 / 8  # finished samples are carried along until fewer than this share of a block is still moving


class Plan(NamedTuple):
    """Scalars of a rollout (B, 11, steps), float64; ``ends`` (B, legs), the substeps taken when each leg is done."""

    scalars: Tensor
    ends: Tensor


class Block(NamedTuple):
    """R samples at P positions each, in the working dtype: what all substeps of a block share.

    ``rows`` are the indices of its samples, longest rollout first, ``span`` its positions; means (K, C, R, P), square
    |m|^2 and logweights (K, R, P), x and x_src (C, R, P); scalars (steps, 11, R, 1); ends (R, legs).
    """

    rows: Tensor
    span: slice
    means: Tensor
    square: Tensor
    logweights: Tensor
    x: Tensor
    x_src: Tensor
    scalars: Tensor
    ends: Tensor

    def first(self, rows: int) -> Block:
        """The same block, its first samples alone."""
        return self._replace(
            means=self.means[:, :, :rows],
            square=self.square[:, :rows],
            logweights=self.logweights[:, :rows],
            x_src=self.x_src[:, :rows],
            scalars=self.scalars[:, :, :rows],
        )


def stretches(counts: list[int]) -> Iterator[tuple[int, int, int]]:
    """(first, last, active): runs of substeps and how many leading samples move there, for ``counts`` longest first."""
    first = 0
    while first < counts[0]:
        active = bisect_left(counts, -first, key=lambda count: -count)
        last = counts[ceil(REGROUP * active) - 1]
        yield first, last, active
        first = last


def stops(ends: Tensor) -> dict[int, list[tuple[int, Tensor]]]:
    """Substeps taken → the legs that end there, each with the samples (n,) whose it is; ``ends`` (R, legs)."""
    found = {}
    for leg, counts in enumerate(ends.unbind(1)):
        for count in counts.unique().tolist():
            found.setdefault(count, []).append((leg, (counts == count).nonzero().flatten()))
    return found


def carve(scratch: Tensor, *shapes: Sequence[int]) -> list[Tensor]:
    """Buffers of these shapes out of one flat tensor, whose memory is asked of the system once."""
    sizes = [prod(shape) for shape in shapes]
    return [part.view(shape) for part, shape in zip(scratch[: sum(sizes)].split(sizes), shapes)]


def weigh(logits: Tensor, spare: Tensor, total: Tensor) -> Tensor:
    """Weights (K, R, P) in proportion to exp(logits), in one of the two buffers; their sum goes to ``total`` (R, P)."""
    if len(logits) <= FEW:
        total.fill_(1)
        return torch.softmax(logits, 0, out=spare)
    weights = logits.sub_(torch.amax(logits, 0, out=total)).clamp_(min=LEAST_LOGIT).exp_()
    torch.sum(weights, 0, out=total)
    return weights


def blocks(policy: GMFlowPolicy, x: Tensor, plan: Plan) -> Iterator[Block]:
    """Cut a rollout in blocks of about BLOCK_ELEMENTS: samples of like length together, or positions of one."""
    components, channels = policy.means.shape[1:3]
    each = components * min(components, channels)  # numbers a substep reads for a position: its means or their products
    positions = x.shape[2:].numel()
    together = max(1, BLOCK_ELEMENTS // (each * positions))
    width = positions if together > 1 else max(1, BLOCK_ELEMENTS // each)
    order = plan.ends[:, -1].argsort(descending=True)
    for rows in order.split(together):
        yield from _blocks_of_rows(policy, x, plan, rows, width)


def _blocks_of_rows(policy: GMFlowPolicy, x: Tensor, plan: Plan, rows: Tensor, width: int) -> Iterator[Block]:
    dtype = working_dtype(policy, x)
    ends = plan.ends[rows]
    scalars = plan.scalars[rows, :, : int(ends[0, -1])].permute(2, 1, 0).unsqueeze(3).to(dtype).contiguous()
    means, logweights, states, sources = (
        pick(value, rows, space)
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
        yield Block(rows, span, tile, tile.square().sum(1), prior, state, source, scalars, ends)


def pick(value: Tensor, rows: Tensor, space: int) -> Tensor:
    """Samples ``rows`` of a tensor (B, ..., *S) whose axes from ``space`` on are positions, as (R, ..., P)."""
    picked = value.narrow(0, int(rows[0]), 1) if len(rows) == 1 else value[rows]
    return flatten_positions(picked, space)
