"""GM rollouts in plain PyTorch, a block of positions at a time: the path of machines without a GPU.

A block's means are copied once, positions last, and stay in the processor's cache through all substeps; each substep
is a dozen calls into preallocated buffers with the scalars of :mod:`piflow_cli.core.coefficients`. Forward and
backward are the formulas of the Triton kernels, so this is also their twin in tests, in float64 where gradients are
checked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from ..coefficients import GMCoefficients, gm_coefficients, substep_table
from ..policies.gmflow import GMFlowPolicy
from .layout import Gradients, flatten_positions, working_dtype

BLOCK_ELEMENTS = 1 << 19  # numbers a substep of a block reads; a few times the second-level cache measured best
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


def plan(policy: GMFlowPolicy, raws: list[Tensor], substeps: int, *, averaged: bool, longest: float = 1.0) -> Plan:
    """The scalars of a rollout through ``raws``; ``averaged`` weighs velocities for their mean over sigma.

    ``longest`` matters to a GPU alone: here the table is as wide as the longest sample needs.
    """
    table = substep_table(raws, policy.shift, substeps)
    weight = table.share if averaged else table.change
    scalars = gm_coefficients(table, weight, policy.raw_src, policy.logstds, policy.shift, policy.temperature)
    return Plan(torch.stack(scalars, dim=1), table.ends)


@torch.no_grad()
def states(policy: GMFlowPolicy, x: Tensor, plan: Plan) -> Tensor:
    """States (legs, B, C, *S) at the end of each leg."""
    out = torch.empty(plan.ends.shape[1], *x.shape, dtype=working_dtype(policy, x))
    flat = flatten_positions(out, 3)
    for block in _blocks(policy, x, plan):
        components, channels = block.means.shape[:2]
        by_gram = components < 2 * channels and components < len(block.scalars)
        moved = _moved_by_gram(block) if by_gram else _moved(block)
        # The change is added to x itself, so that a rollout of length zero returns x bit for bit.
        flat[:, block.rows, :, block.span] = moved.add_(block.x.transpose(0, 1))
    return out


@torch.no_grad()
def integral(policy: GMFlowPolicy, x: Tensor, plan: Plan) -> Tensor:
    """Sum of weight times velocity over the substeps, (B, C, *S)."""
    out = torch.empty(x.shape, dtype=working_dtype(policy, x))
    flat = flatten_positions(out, 2)
    for block in _blocks(policy, x, plan):
        _, total = _walk(block, integrate=True)
        flat[block.rows, :, block.span] = total.transpose(0, 1)
    return out


@torch.no_grad()
def integral_backward(policy: GMFlowPolicy, x: Tensor, plan: Plan, grad: Tensor) -> Gradients:
    """Gradients for means, logweights, logstds and x of the inner product of ``grad`` (B, C, *S) with the integral.

    The path is walked once more, then backwards with the adjoint of the state (see :func:`_backward_step`).
    """
    dtype = working_dtype(policy, x)
    grads = Gradients(
        *(torch.zeros(value.shape, dtype=value.dtype) for value in (policy.means, policy.logweights, policy.logstds, x))
    )
    for block in _blocks(policy, x, plan):
        path, _ = _walk(block, integrate=True)
        upstream = _pick(grad, block.rows, 2)[..., block.span].movedim(0, -2).to(dtype)
        sums = _Sums(
            *(
                torch.zeros_like(value)
                for value in (block.means, block.logweights, block.logweights, upstream, upstream)
            )
        )
        field = _Field(block)
        for step in reversed(range(len(block.scalars))):
            _backward_step(field, path[step], GMCoefficients(*block.scalars[step].unbind(0)), upstream, sums)
        sums.means.sub_(2 * sums.square.unsqueeze(1) * block.means)
        grad_logweights = (sums.logweights / policy.temperature).unsqueeze(1)
        for out, value in ((grads.means, sums.means), (grads.logweights, grad_logweights), (grads.x, sums.state)):
            flatten_positions(out, value.ndim - 1)[block.rows, ..., block.span] = value.movedim(-2, 0).to(out.dtype)
        grads.logstds.view(-1).index_add_(0, block.rows, sums.logstd.sum(dim=(0, 2)).to(grads.logstds.dtype))
    return grads


class _Sums(NamedTuple):
    """Gradients gathered on the way back, in the shapes of their block; that of the log-std spread over the state."""

    means: Tensor
    square: Tensor
    logweights: Tensor
    state: Tensor
    logstd: Tensor


class _Field:
    """The velocity of a block, evaluated into buffers that are allocated once."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.product = torch.empty_like(block.means, memory_format=torch.contiguous_format)
        self.logits = torch.empty_like(block.logweights, memory_format=torch.contiguous_format)
        self.energy = torch.empty_like(self.logits)
        self.query, self.mean, self.value = (
            torch.empty_like(block.x_src, memory_format=torch.contiguous_format) for _ in range(3)
        )
        self.total = torch.empty_like(self.mean[0])

    def velocity(self, y: Tensor, at: tuple[Tensor, ...]) -> Tensor:
        """u (C, R, P) at displacements ``y`` (C, R, P) and scalars p, q, s, a, b, c (R, 1); leaves its parts behind."""
        block = self.block
        p, q, s, a, b, c = at[:6]
        torch.mul(y, p, out=self.query).addcmul_(block.x_src, q)
        torch.addcmul(block.logweights, block.square, s, value=-1, out=self.logits)
        if len(y) == 1:
            self.logits.addcmul_(block.means[:, 0], self.query, value=-1)
        else:
            torch.mul(block.means, self.query, out=self.product)
            self.logits.sub_(torch.sum(self.product, 1, out=self.energy))
        weights = _exponentiate(self.logits, self.total)
        torch.mul(block.means, weights.unsqueeze(1), out=self.product)
        torch.sum(self.product, 0, out=self.mean).div_(torch.sum(weights, 0, out=self.total))
        return torch.mul(y, a, out=self.value).addcmul_(block.x_src, b).addcmul_(self.mean, c)


def _exponentiate(logits: Tensor, scratch: Tensor) -> Tensor:
    """exp(logits - max) in place: torch.softmax over the first axis takes twice as long where K is large."""
    return logits.sub_(torch.amax(logits, 0, out=scratch)).clamp_(min=LEAST_LOGIT).exp_()


def _walk(block: Block, *, integrate: bool) -> tuple[Tensor, Tensor]:
    """Displacements from the source before each substep and after the last, (steps + 1, C, R, P), and the integral."""
    path = block.x.new_empty(len(block.scalars) + 1, *block.x.shape)
    torch.sub(block.x, block.x_src, out=path[0])
    total = torch.zeros_like(block.x) if integrate else block.x
    for first, last, active in _stretches(block.ends[:, -1].tolist()):
        field = _Field(block.first(active))
        moving, gathered = path[:, :, :active], total[:, :active]
        y = moving[first]
        for step, scalars in enumerate(field.block.scalars[first:last].unbind(0), first):
            at = scalars.unbind(0)
            u = field.velocity(y, at)
            y = torch.addcmul(y, u, at[6], out=moving[step + 1])
            if integrate:
                gathered.addcmul_(u, at[7])
        if integrate:
            path[last + 1 :, :, :active] = y.unsqueeze(0)
    return path, total


def _moved(block: Block) -> Tensor:
    """Change of the state since the start at the ends of the legs, (legs, R, C, P)."""
    path, _ = _walk(block, integrate=False)
    return path[block.ends.T, :, torch.arange(len(block.rows))] - path[0].transpose(0, 1)


def _moved_by_gram(block: Block) -> Tensor:
    """What :func:`_moved` gives, by way of the Gram matrix of the means: K^2 numbers are read a substep instead of 2 K
    C.

    The displacement is alpha y_0 + beta x_s + sum_k share_k m_k with alpha and beta known beforehand, and until the
    end of a leg it is wanted only in products with the means.
    """
    start = block.x - block.x_src
    gram = _gram(block.means)
    alongs = [(block.means * state).sum(1) for state in (block.x_src, start)]
    scalars, alpha, beta = _gram_scalars(block.scalars)
    shares = torch.zeros_like(block.logweights)
    kept = shares.new_zeros(block.ends.shape[1], *shares.shape)
    stops = defaultdict(list)
    for row, ends in enumerate(block.ends.tolist()):
        for leg, end in enumerate(ends):
            stops[end].append((leg, row))
    for first, last, active in _stretches(block.ends[:, -1].tolist()):
        tile, square, prior, share = (
            gram[:, :, :active],
            block.square[:, :active],
            block.logweights[:, :active],
            shares[:, :active],
        )
        source, state = (along[:, :active] for along in alongs)
        product, logits, energy, total = (
            torch.empty(value.shape, dtype=value.dtype) for value in (tile, prior, prior, prior[0])
        )
        for step, at in enumerate(scalars[first:last, :, :active].unbind(0), first + 1):
            p, s, of_source, of_state, growth, gain = at.unbind(0)
            torch.addcmul(prior, square, s, value=-1, out=logits)
            logits.addcmul_(source, of_source, value=-1).addcmul_(state, of_state, value=-1)
            torch.mul(tile, share, out=product)
            logits.addcmul_(torch.sum(product, 1, out=energy), p, value=-1)
            weights = _exponentiate(logits, total)
            torch.div(gain, torch.sum(weights, 0, out=total), out=total)
            share.mul_(growth).addcmul_(weights, total)
            for leg, row in stops.get(step, ()):
                kept[leg, :, row] = share[:, row]
    moved, rows = [], torch.arange(len(block.rows))
    for leg, ends in zip(kept.unbind(0), block.ends.unbind(1)):
        ahead, drift = (value[ends, rows].unsqueeze(1) for value in (alpha, beta))
        mixed = (block.means * leg.unsqueeze(1)).sum(0)
        moved.append(mixed.addcmul_(start, ahead - 1).addcmul_(block.x_src, drift))
    return torch.stack(moved).transpose(1, 2)


def _gram(means: Tensor) -> Tensor:
    """Products of all pairs of means (K, C, R, P), as (K, K, R, P)."""
    gram = means.new_empty(len(means), *means[:, 0].shape)
    for index, mean in enumerate(means.unbind(0)):
        products = (means[index:] * mean).sum(1)
        gram[index, index:] = products
        gram[index:, index] = products
    return gram


def _gram_scalars(scalars: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per-substep p, s, factors of x_s.m and y_0.m, growth and gain of the shares, (steps, 6, R, 1); alpha, beta
    (steps + 1, R).

    alpha and beta are the shares of y_0 and x_s in the displacement before each substep and after the last.
    """
    p, q, s, a, b, c, change = scalars.double()[:, :7].squeeze(3).unbind(1)
    growth = 1 + change * a
    alpha = torch.cat([torch.ones_like(growth[:1]), growth.cumprod(0)])
    beta = [torch.zeros_like(growth[0])]
    for grown, drift in zip(growth, change * b):
        beta.append(beta[-1] * grown + drift)
    beta = torch.stack(beta)
    table = torch.stack([p, s, p * beta[:-1] + q, p * alpha[:-1], growth, change * c], dim=1)
    return table.unsqueeze(3).to(scalars.dtype), alpha.to(scalars.dtype), beta.to(scalars.dtype)


def _backward_step(field: _Field, y: Tensor, at: GMCoefficients, upstream: Tensor, sums: _Sums) -> None:
    """Take the adjoint of one substep: ``sums.state`` goes from the adjoint after it to the one before it.

    With w the posterior weights, M = sum w m, E the energy p m.y + q m.x_s + s |m|^2 and U the adjoint of the velocity:
    dlogit_k = c w_k (m_k.U - M.U), and all else follows by the product rule on the equations of ``coefficients``.
    """
    means = field.block.means
    field.velocity(y, at)
    adjoint = at.weight * upstream + at.change * sums.state
    response = at.c * (means * adjoint).sum(1)
    weights = field.logits / field.total
    energy = (means * field.query).sum(1) + at.s * field.block.square
    slope = weights * (response - at.c * (field.mean * adjoint).sum(0))
    sums.means.add_(weights.unsqueeze(1) * (at.c * adjoint) - slope.unsqueeze(1) * field.query)
    sums.square.add_(slope * at.s)
    sums.logweights.add_(slope)
    sums.state.add_(at.a * adjoint - at.p * (slope.unsqueeze(1) * means).sum(0))
    sums.logstd.add_(adjoint * (at.a_logstd * y + at.b_logstd * field.block.x_src - at.kappa * at.c * field.mean))
    sums.logstd[0].add_(at.kappa * (slope * energy).sum(0))


def _stretches(counts: list[int]) -> Iterator[tuple[int, int, int]]:
    """(first, last, active): runs of substeps and how many leading samples move there, for ``counts`` longest first."""
    first = 0
    while first < counts[0]:
        active = bisect_left(counts, -first, key=lambda count: -count)
        last = counts[ceil(REGROUP * active) - 1]
        yield first, last, active
        first = last


def _blocks(policy: GMFlowPolicy, x: Tensor, plan: Plan) -> Iterator[Block]:
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
        _pick(value, rows, space)
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


def _pick(value: Tensor, rows: Tensor, space: int) -> Tensor:
    """Samples ``rows`` of a tensor (B, ..., *S) whose axes from ``space`` on are positions, as (R, ..., P)."""
    picked = value.narrow(0, int(rows[0]), 1) if len(rows) == 1 else value[rows]
    return flatten_positions(picked, space)
