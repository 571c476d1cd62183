"""GM rollouts on the CPU by way of the Gram matrix of the means, where components are few beside channels."""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import Block, add_products, carve, stops, stretches, sum_products, weigh


def moved(block: Block) -> Tensor:
    """Change of the state since the start at the ends of the legs, (legs, C, R, P).

    K^2 numbers are read a substep in place of 2 K C. The displacement is alpha y_0 + beta x_s + sum_k share_k m_k with
    alpha and beta known beforehand, and until the end of a leg it is wanted only in products with the means.
    """
    start, (alpha, beta) = block.x - block.x_src, _drift(block)
    gram, shares, reached = _gram(block.means), torch.zeros_like(block.logweights), stops(block.ends)
    kept = shares.new_empty(block.ends.shape[1], *shares.shape)
    known, substeps = _known_terms(block, gram, start, alpha, beta)
    scratch = shares.new_empty(2 * shares.numel())
    for first, last, active in stretches(block.ends[:, -1].tolist()):
        prior, moving, square, *along = (value[:, :active] for value in (block.logweights, shares, *known))
        logits, weights = carve(scratch, moving.shape, moving.shape)
        rows, scaled = gram[:, :, :active].unbind(0), weights.unbind(0)
        for step, (p, growth, gain, s, *factors) in enumerate(substeps(first, last, active), first + 1):
            add_products(torch.addcmul(prior, square, s, value=-1, out=logits), along, factors, sign=-1)
            torch.mul(moving, p, out=weights)
            add_products(logits, rows, scaled, sign=-1)
            moving.mul_(growth).addcmul_(weigh(logits, weights), gain)
            for leg, sample in reached.get(step, ()):
                kept[leg, :, sample] = shares[:, sample]
    kept[-1] = shares
    samples, moves = torch.arange(len(block.ends)), []
    for reached_shares, ends in zip(kept.unbind(0), block.ends.unbind(1)):
        ahead, drift = (value[samples, ends].unsqueeze(1).to(start.dtype) for value in (alpha - 1, beta))
        move = torch.mul(start, ahead).addcmul_(block.x_src, drift)
        moves.append(add_products(move, block.means.unbind(0), reached_shares.unsqueeze(1).unbind(0)))
    return torch.stack(moves)


def _known_terms(block: Block, gram: Tensor, start: Tensor, alpha: Tensor, beta: Tensor):
    """Terms of the logits that are known but for a scalar, and the scalars of substeps.

    The terms (K, R, P) are |m_k|^2, m_k.x_s and, away from the source, m_k.y_0; the scalars are p, growth and gain of
    the shares, then a factor for each term.
    """
    at = block.scalars
    terms = [(torch.diagonal(gram).movedim(-1, 0).contiguous(), at.s)]
    states = [(block.x_src, at.p * beta[:, :-1] + at.q)]
    if start.any():
        states.append((start, at.p * alpha[:, :-1]))
    for state, factor in states:
        along = sum_products(block.means.unbind(1), state.unbind(0), out=torch.empty_like(block.logweights))
        terms.append((along, factor))
    values, factors = zip(*terms)
    return values, block.substeps(at.p, 1 + at.change * at.a, at.change * at.c, *factors)


def _gram(means: Tensor) -> Tensor:
    """Products of all pairs of means (K, C, R, P), as (K, K, R, P)."""
    gram = means.new_empty(len(means), *means[:, 0].shape)
    for index, mean in enumerate(means.unbind(0)):
        sum_products(means[index:].unbind(1), mean.unbind(0), out=gram[index, index:])
        gram[index + 1 :, index] = gram[index, index + 1 :]
    return gram


def _drift(block: Block) -> tuple[Tensor, Tensor]:
    """Shares of y_0 and x_s in the displacement before each substep and after the last, both (R, steps + 1) float64."""
    at = block.scalars
    growth, drift = 1 + at.change * at.a, at.change * at.b
    alpha = torch.cat([torch.ones_like(growth[:, :1]), growth.cumprod(1)], dim=1)
    beta = [torch.zeros_like(growth[:, 0])]
    for grown, added in zip(growth.unbind(1), drift.unbind(1)):
        beta.append(torch.addcmul(added, beta[-1], grown))
    return alpha, torch.stack(beta, dim=1)
