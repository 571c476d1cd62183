"""GM rollouts in plain PyTorch, a block of positions at a time: the path of machines without a GPU.

A block's means are copied once, positions last, and stay in the processor's cache through all substeps; each substep
is a dozen calls into preallocated buffers with the scalars of :mod:`piflow_cli.core.coefficients`. Forward and
backward are the formulas of the Triton kernels, so this is also their twin in tests, in float64 where gradients are
checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..coefficients import GMCoefficients, gm_coefficients, substep_table
from ..policies.gmflow import GMFlowPolicy
from . import gm_gram
from .blocks import Block, CpuTable, add_products, blocks, carve, part_of, place, stops, stretches, sum_products, weigh
from .layout import Gradients, flatten_positions, working_dtype

LONGEST_KEPT = 8  # substeps whose posteriors are kept for backward


def coefficient_table(
    policy: GMFlowPolicy, raws: list[Tensor], substeps: int, *, averaged: bool, longest: float = 1.0
) -> CpuTable:
    """The scalars of a rollout through ``raws``; ``averaged`` weighs velocities for their mean over sigma.

    ``longest`` matters to a GPU alone: here the table is as wide as the longest sample needs.
    """
    times = substep_table(raws, policy.shift, substeps)
    weight = times.share if averaged else times.change
    scalars = gm_coefficients(times, weight, policy.raw_src, policy.logstds, policy.shift, policy.temperature)
    return CpuTable(scalars, times.ends)


def states(policy: GMFlowPolicy, x: Tensor, table: CpuTable) -> Tensor:
    """States (legs, B, C, *S) at the end of each leg."""
    out = torch.empty(table.ends.shape[1], *x.shape, dtype=working_dtype(policy.means, x))
    # Calls cost a tenth less in inference mode; tensors made outside of it may go on into autograd.
    with torch.inference_mode():
        flat = flatten_positions(out, 3)
        for block in blocks(policy, x, table):
            components, channels = block.means.shape[:2]
            by_gram = components < 2 * channels and components < block.scalars.change.shape[1]
            moved = gm_gram.moved(block) if by_gram else _moved(block)
            for leg, change in zip(flat, moved):
                # The change is added to x itself, so that a rollout of length zero returns x bit for bit.
                place(leg, block, change.add_(block.x))
    return out


def integral(
    policy: GMFlowPolicy, x: Tensor, table: CpuTable, *, keep: bool = False
) -> tuple[Tensor, list[Walked] | None]:
    """Sum of weight times velocity over the substeps, (B, C, *S); with ``keep`` also what backward needs.

    Windows are kept, as their posteriors take less room than the means; longer walks are walked again.
    """
    out, kept = torch.empty(x.shape, dtype=working_dtype(policy.means, x)), []
    keep = keep and table.scalars.change.shape[1] <= LONGEST_KEPT
    with torch.inference_mode():
        flat = flatten_positions(out, 2)
        for block in blocks(policy, x, table):
            trace = _Trace.of(block) if keep else None
            place(flat, block, _walk(block, trace))
            if keep:
                kept.append((block, trace))
    return out, kept if keep else None


def integral_backward(
    policy: GMFlowPolicy, x: Tensor, table: CpuTable, grad: Tensor, kept: list[Walked] | None = None
) -> Gradients:
    """Gradients of the inner product of ``grad`` (B, C, *S) with the integral, for means, logweights, logstds and x.

    The walk is the one :func:`integral` ``kept``, or is done once more; then it is gone through backwards with the
    adjoint of the state (see :func:`_backward_step`).
    """
    grads = Gradients(
        torch.empty(policy.means.shape, dtype=policy.means.dtype),
        torch.empty(policy.logweights.shape, dtype=policy.logweights.dtype),
        torch.zeros(policy.logstds.shape, dtype=policy.logstds.dtype),
        torch.empty(x.shape, dtype=x.dtype),
    )
    with torch.inference_mode():
        means, logweights, states = (
            flatten_positions(out, space) for out, space in ((grads.means, 3), (grads.logweights, 3), (grads.x, 2))
        )
        grad = flatten_positions(grad, 2)
        for block, trace in _walked_again(policy, x, table) if kept is None else kept:
            sums = _backward(block, trace, part_of(grad, block).to(block.x.dtype))
            _place_means(means, block, sums)
            place(logweights, block, (sums.logweights / policy.temperature).unsqueeze(1))
            place(states, block, sums.state)
            grads.logstds.view(-1)[block.rows] += sums.logstd.sum(dim=1).to(grads.logstds.dtype)
    return grads


def _walked_again(policy: GMFlowPolicy, x: Tensor, table: CpuTable) -> Iterator[Walked]:
    for block in blocks(policy, x, table):
        trace = _Trace.of(block)
        _walk(block, trace)
        yield block, trace


class _Trace(NamedTuple):
    """What a walk leaves for the way back: displacements (steps, C, R, P), weights and logits (steps, K, R, P)."""

    path: Tensor
    weights: Tensor
    logits: Tensor

    @classmethod
    def of(cls, block: Block) -> _Trace:
        """Room for the walk of a block."""
        steps = block.scalars.change.shape[1]
        shapes = [(steps, *value.shape) for value in (block.x, block.logweights, block.logweights)]
        # Samples that stop before the others leave their last entries as they are.
        room = block.x.new_empty if block.ends[-1, -1] == steps else block.x.new_zeros
        return cls(*map(room, shapes))


Walked = tuple[Block, _Trace]


class _Sums(NamedTuple):
    """Gradients gathered on the way back: square and logweights (K, R, P), state (C, R, P), logstd (R, P).

    That of the means is the sum of ``terms``, pairs (K, R, P) and (C, R, P) to be multiplied, and - 2 square m.
    """

    terms: list[tuple[Tensor, Tensor]]
    square: Tensor
    logweights: Tensor
    state: Tensor
    logstd: Tensor


class _Field:
    """The posterior of a block's mixtures, evaluated into buffers, for the leading samples that still move."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.square = sum_products(*[block.means.unbind(1)] * 2, out=torch.empty_like(block.logweights))
        self.scratch = block.means.new_empty(2 * block.logweights.numel() + 3 * block.x.numel())

    def lead(self, active: int) -> None:
        """Go on with the first ``active`` samples alone."""
        block = self.block
        self.prior, self.leading_square = block.logweights[:, :active], self.square[:, :active]
        self.x_src, means = block.x_src[:, :active], block.means[:, :, :active]
        shapes = [self.prior.shape] * 2 + [self.x_src.shape] * 3
        self.logits, self.weights, self.query, self.mean, self.velocity = carve(self.scratch, *shapes)
        self.of_energy = (means.unbind(1), self.query.unbind(0))
        self.of_mean = (means.unbind(0), self.weights.unsqueeze(1).unbind(0))

    def posterior_mean(self, y: Tensor, p: Tensor, q: Tensor, s: Tensor) -> Tensor:
        """Mean of the means (C, R, P) at displacements ``y`` (C, R, P) and scalars (R, 1); leaves its parts behind."""
        torch.mul(y, p, out=self.query).addcmul_(self.x_src, q)
        torch.addcmul(self.prior, self.leading_square, s, value=-1, out=self.logits)
        weigh(add_products(self.logits, *self.of_energy, sign=-1), self.weights)
        return sum_products(*self.of_mean, out=self.mean)


def _moved(block: Block) -> Tensor:
    """Change of the state since the start at the ends of the legs, (legs, C, R, P)."""
    field, at, reached = _Field(block), block.scalars, stops(block.ends)
    start = block.x - block.x_src
    y, kept = start.clone(), start.new_empty(block.ends.shape[1], *start.shape)
    samples, legs = y.unbind(1), [leg.unbind(1) for leg in kept[:-1]]
    substeps = block.substeps(at.p, at.q, at.s, 1 + at.change * at.a, at.change * at.b, at.change * at.c)
    for first, last, active in stretches(block.ends[:, -1].tolist()):
        field.lead(active)
        moving = y[:, :active]
        for step, (p, q, s, growth, drift, gain) in enumerate(substeps(first, last, active), first + 1):
            mean = field.posterior_mean(moving, p, q, s)
            moving.mul_(growth).addcmul_(field.x_src, drift).addcmul_(mean, gain)
            for leg, sample in reached.get(step, ()):
                legs[leg][sample].copy_(samples[sample])
    kept[-1] = y
    return kept.sub_(start)


def _walk(block: Block, trace: _Trace | None = None) -> Tensor:
    """The integral (C, R, P) of a block; what backward needs goes to ``trace``."""
    field, at = _Field(block), block.scalars
    y, total = block.x - block.x_src, torch.zeros_like(block.x)
    substeps = block.substeps(at.p, at.q, at.s, at.a, at.b, at.c, at.change, at.weight)
    for first, last, active in stretches(block.ends[:, -1].tolist()):
        field.lead(active)
        moving, gathered = y[:, :active], total[:, :active]
        for step, (p, q, s, a, b, c, change, weight) in enumerate(substeps(first, last, active), first):
            mean = field.posterior_mean(moving, p, q, s)
            if trace is not None:
                for kept, value in zip(trace, (moving, field.weights, field.logits)):
                    kept[step, :, :active] = value
            u = torch.mul(moving, a, out=field.velocity).addcmul_(field.x_src, b).addcmul_(mean, c)
            gathered.addcmul_(u, weight)
            moving.addcmul_(u, change)
    return total


def _backward(block: Block, trace: _Trace, upstream: Tensor) -> _Sums:
    """Gradients of the inner product of ``upstream`` (C, R, P) with the integral of a block."""
    priors = [torch.zeros_like(block.logweights) for _ in range(2)]
    sums = _Sums([], *priors, torch.zeros_like(block.x), torch.zeros_like(block.x[0]))
    steps = list(block.substeps(*block.scalars)(0, len(trace.path), len(block.ends)))
    for step in reversed(range(len(steps))):
        _backward_step(block, [kept[step] for kept in trace], GMCoefficients(*steps[step]), upstream, sums)
    return sums


def _place_means(out: Tensor, block: Block, sums: _Sums) -> None:
    """Write the gradient of a block's means where they lie in ``out`` (B, K, C, P), without a copy where it can be."""
    in_place = isinstance(block.rows, slice) and out.dtype == block.means.dtype
    total = part_of(out, block) if in_place else torch.empty_like(block.means)
    torch.mul(block.means, (-2 * sums.square).unsqueeze(1), out=total)
    for left, right in sums.terms:
        total.addcmul_(left.unsqueeze(1), right)
    if not in_place:
        place(out, block, total)


def _backward_step(block: Block, kept: list[Tensor], at: GMCoefficients, upstream: Tensor, sums: _Sums) -> None:
    """Take the adjoint of one substep: ``sums.state`` goes from the adjoint after it to the one before it.

    With w the posterior weights, M = sum w m, E the energy p m.y + q m.x_s + s |m|^2 and U the adjoint of the velocity:
    dlogit_k = c w_k (m_k.U - M.U), and all else follows by the product rule on the equations of ``coefficients``.
    """
    y, weights, logits = kept
    adjoint = (upstream * at.weight).addcmul_(sums.state, at.change)
    pull = adjoint * at.c
    response = sum_products(block.means.unbind(1), pull.unbind(0), out=torch.empty_like(weights))
    # The average comes from the same sums as the responses: their differences are small where components agree.
    average = (weights * response).sum(0)
    slope = response.sub_(average).mul_(weights)
    query = (y * -at.p).addcmul_(block.x_src, at.q, value=-1)
    sums.terms.extend([(weights, pull), (slope, query)])
    sums.square.addcmul_(slope, at.s)
    sums.logweights.add_(slope)
    # Both may be infinite where a component is dropped.
    energies = (block.logweights - logits).where(block.logweights > -torch.inf, 0)
    direct = ((y * at.a_logstd).addcmul_(block.x_src, at.b_logstd) * adjoint).sum(0)
    sums.logstd.add_(direct).addcmul_((slope * energies).sum(0).sub_(average), at.kappa)
    sums.state.addcmul_(adjoint, at.a)
    add_products(sums.state, block.means.unbind(0), (slope * at.p).unsqueeze(1).unbind(0), sign=-1)
