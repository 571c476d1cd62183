"""GM rollouts in plain PyTorch, a block of positions at a time: the path of machines without a GPU.

A block's means are copied once, positions last, and stay in the processor's cache through all substeps; each substep
is a dozen calls into preallocated buffers with the scalars of :mod:`piflow_cli.core.coefficients`. Forward and
backward are the formulas of the Triton kernels, so this is also their twin in tests, in float64 where gradients are
checked.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..coefficients import GMCoefficients, gm_coefficients, substep_table
from ..policies.gmflow import GMFlowPolicy
from . import gm_gram
from .blocks import Block, Plan, blocks, carve, pick, stops, stretches, weigh
from .layout import Gradients, flatten_positions, working_dtype


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
    for block in blocks(policy, x, plan):
        components, channels = block.means.shape[:2]
        by_gram = components < 2 * channels and components < len(block.scalars)
        moved = gm_gram.moved(block) if by_gram else _moved(block)
        # The change is added to x itself, so that a rollout of length zero returns x bit for bit.
        flat[:, block.rows, :, block.span] = moved.add_(block.x.transpose(0, 1))
    return out


@torch.no_grad()
def integral(policy: GMFlowPolicy, x: Tensor, plan: Plan) -> Tensor:
    """Sum of weight times velocity over the substeps, (B, C, *S)."""
    out = torch.empty(x.shape, dtype=working_dtype(policy, x))
    flat = flatten_positions(out, 2)
    for block in blocks(policy, x, plan):
        _, total = _walk(block)
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
    for block in blocks(policy, x, plan):
        path, _ = _walk(block)
        upstream = pick(grad, block.rows, 2)[..., block.span].movedim(0, -2).to(dtype)
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
    """The velocity of a block, evaluated into buffers; a shorter block of the same walk may reuse their ``scratch``."""

    def __init__(self, block: Block, scratch: Tensor | None = None) -> None:
        components, channels, *places = block.means.shape
        shapes = [(components, channels, *places), *[(components, *places)] * 2, *[(channels, *places)] * 3, places]
        numbers = block.means.numel() + 2 * block.logweights.numel() + 3 * block.x_src.numel() + block.x_src[0].numel()
        self.block = block
        self.scratch = block.means.new_empty(numbers) if scratch is None else scratch
        self.product, self.logits, self.energy, self.query, self.mean, self.value, self.total = carve(self.scratch, *shapes)

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
        self.weights = weigh(self.logits, self.energy, self.total)
        torch.mul(block.means, self.weights.unsqueeze(1), out=self.product)
        torch.sum(self.product, 0, out=self.mean).div_(self.total)
        return torch.mul(y, a, out=self.value).addcmul_(block.x_src, b).addcmul_(self.mean, c)


def _walk(block: Block) -> tuple[Tensor, Tensor]:
    """Displacements from the source before each substep and after the last, (steps + 1, C, R, P), and the integral."""
    path = block.x.new_empty(len(block.scalars) + 1, *block.x.shape)
    torch.sub(block.x, block.x_src, out=path[0])
    total = torch.zeros_like(block.x)
    scratch = None
    for first, last, active in stretches(block.ends[:, -1].tolist()):
        field = _Field(block.first(active), scratch)
        scratch = field.scratch
        moving, gathered = path[:, :, :active], total[:, :active]
        y = moving[first]
        for step, scalars in enumerate(field.block.scalars[first:last].unbind(0), first):
            at = scalars.unbind(0)
            u = field.velocity(y, at)
            y = torch.addcmul(y, u, at[6], out=moving[step + 1])
            gathered.addcmul_(u, at[7])
        path[last + 1 :, :, :active] = y.unsqueeze(0)
    return path, total


def _moved(block: Block) -> Tensor:
    """Change of the state since the start at the ends of the legs, (legs, R, C, P)."""
    start = block.x - block.x_src
    y, scratch, reached = start.clone(), None, stops(block.ends)
    kept = block.x.new_empty(block.ends.shape[1], *block.x.shape)
    for first, last, active in stretches(block.ends[:, -1].tolist()):
        field = _Field(block.first(active), scratch)
        scratch, moving = field.scratch, y[:, :active]
        for step, scalars in enumerate(field.block.scalars[first:last].unbind(0), first + 1):
            at = scalars.unbind(0)
            moving.addcmul_(field.velocity(moving, at), at[6])
            for leg, rows in reached.get(step, ()):
                kept[leg][:, rows] = y[:, rows]
    return kept.sub_(start).transpose(1, 2)


def _backward_step(field: _Field, y: Tensor, at: GMCoefficients, upstream: Tensor, sums: _Sums) -> None:
    """Take the adjoint of one substep: ``sums.state`` goes from the adjoint after it to the one before it.

    With w the posterior weights, M = sum w m, E the energy p m.y + q m.x_s + s |m|^2 and U the adjoint of the velocity:
    dlogit_k = c w_k (m_k.U - M.U), and all else follows by the product rule on the equations of ``coefficients``.
    """
    means = field.block.means
    field.velocity(y, at)
    adjoint = at.weight * upstream + at.change * sums.state
    response = at.c * (means * adjoint).sum(1)
    weights = field.weights / field.total
    energy = (means * field.query).sum(1) + at.s * field.block.square
    # By the same sums as the responses themselves: their differences are small where components agree.
    slope = weights * (response - (weights * response).sum(0))
    sums.means.add_(weights.unsqueeze(1) * (at.c * adjoint) - slope.unsqueeze(1) * field.query)
    sums.square.add_(slope * at.s)
    sums.logweights.add_(slope)
    sums.state.add_(at.a * adjoint - at.p * (slope.unsqueeze(1) * means).sum(0))
    sums.logstd.add_(adjoint * (at.a_logstd * y + at.b_logstd * field.block.x_src - at.kappa * at.c * field.mean))
    sums.logstd[0].add_(at.kappa * (slope * energy).sum(0))


