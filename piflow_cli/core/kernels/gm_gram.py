"""GM rollouts on the CPU by way of the Gram matrix of the means, where components are few beside channels."""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import Block, carve, stops, stretches, weigh


def moved(block: Block) -> Tensor:
    """Change of the state since the start at the ends of the legs, (legs, R, C, P).

    K^2 numbers are read a substep in place of 2 K C. The displacement is alpha y_0 + beta x_s + sum_k share_k m_k with alpha and beta known beforehand, and until the
    end of a leg it is wanted only in products with the means.
    """
    start = block.x - block.x_src
    gram = _gram(block.means)
    alongs = [(block.means * state).sum(1) for state in (block.x_src, start)]
    scalars, alpha, beta = _gram_scalars(block.scalars)
    shares = torch.zeros_like(block.logweights)
    kept = shares.new_zeros(block.ends.shape[1], *shares.shape)
    reached = stops(block.ends)
    scratch = block.means.new_empty(gram.numel() + 2 * shares.numel() + shares[0].numel())
    for first, last, active in stretches(block.ends[:, -1].tolist()):
        tile, square, prior, share, source, state = (
            value[..., :active, :] for value in (gram, block.square, block.logweights, shares, *alongs)
        )
        buffers = carve(scratch, tile.shape, prior.shape, prior.shape, prior[0].shape)
        for step, at in enumerate(scalars[first:last, :, :active].unbind(0), first + 1):
            _substep(share, (tile, square, prior, source, state), at.unbind(0), buffers)
            for leg, rows in reached.get(step, ()):
                kept[leg][:, rows] = shares[:, rows]
    moved, rows = [], torch.arange(len(block.rows))
    for leg, ends in zip(kept.unbind(0), block.ends.unbind(1)):
        ahead, drift = (value[ends, rows].unsqueeze(1) for value in (alpha, beta))
        mixed = (block.means * leg.unsqueeze(1)).sum(0)
        moved.append(mixed.addcmul_(start, ahead - 1).addcmul_(block.x_src, drift))
    return torch.stack(moved).transpose(1, 2)


def _substep(share: Tensor, known: tuple[Tensor, ...], at: tuple[Tensor, ...], buffers: list[Tensor]) -> None:
    """Take one Euler step of the shares (K, R, P), in place."""
    tile, square, prior, source, state = known
    p, s, of_source, of_state, growth, gain = at
    product, logits, energy, total = buffers
    torch.addcmul(prior, square, s, value=-1, out=logits)
    logits.addcmul_(source, of_source, value=-1).addcmul_(state, of_state, value=-1)
    torch.mul(tile, share, out=product)
    logits.addcmul_(torch.sum(product, 1, out=energy), p, value=-1)
    weights = weigh(logits, energy, total)
    share.mul_(growth).addcmul_(weights, torch.div(gain, total, out=total))


def _gram(means: Tensor) -> Tensor:
    """Products of all pairs of means (K, C, R, P), as (K, K, R, P)."""
    gram = means.new_empty(len(means), *means[:, 0].shape)
    for index, mean in enumerate(means.unbind(0)):
        products = (means[index:] * mean).sum(1)
        gram[index, index:] = products
        gram[index:, index] = products
    return gram


def _gram_scalars(scalars: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per-substep p, s, factors of x_s.m and y_0.m, growth and gain of the shares, (steps, 6, R, 1); alpha, beta.

    alpha and beta (steps + 1, R) are the shares of y_0 and x_s in the displacement before each substep and after the last.
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
