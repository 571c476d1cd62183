"""Distances between the ends of a student's segments and noised data: of distributions, and of their two moments."""

from __future__ import annotations

import torch
from torch import Tensor

from .constants import ImitationConfig
from .imitation import Segment
from .policies.base import Policy
from .rollout import rollout
from .tensors import per_sample, working
from .timegrid import to_sigma

# Mean square per value that lies between samples of different marks, beside that between their values. Data fill
# [-1, 1]; so it matters and does not rule.
APART = 1 / 16
# Of the mean variance, added to all: of values that vary less little can be told from a batch.
RIDGE = 1 / 100
# Each more than doubles the least eigenvalue, until it is 1.
ROUNDS = 20
# The derivative of a root has no bound at 0, and samples that are all alike have no variance.
FLOOR = 1e-6


def energy_distance(samples: Tensor, others: Tensor, marks: Tensor) -> Tensor:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| (scalar) of two batches (B, C, *S), by pairs of different places, B > 1.

    |.| is a root mean square over values, so that it does not depend on their number. ``marks`` (B,) int64 of both
    batches, such as classes, belong to what is compared: samples of different ones are sqrt(APART) further apart. It is
    0 where both batches are of one distribution in the mean over draws, and may be negative in one. Places may be
    paired between the batches: no sample meets its own. (Szekely and Rizzo, 2013)
    """
    differ = (marks.unsqueeze(1) != marks.unsqueeze(0)).to(torch.float32) * APART
    own, theirs = (working(batch).flatten(1) for batch in (samples, others))
    return (
        2 * _mean_distance(own, theirs, differ)
        - _mean_distance(own, own, differ)
        - _mean_distance(theirs, theirs, differ)
    )


def moment_distance(samples: Tensor, others: Tensor) -> Tensor:
    """A Frechet distance to second order over the number of values (scalar), of two batches (B, C, *S), B > 1.

    That of normal distributions, whose term of covariances is |S^-1/4 (cov X - cov Y) S^-1/4|^2 / 4 where they are
    near one another: values that hardly vary count as much as those that do. S is the covariance of both batches,
    RIDGE of its mean variance added. By pairs of different places, with x.y + (x S^-1/2 y)^2 / 4 as kernel (Gretton et
    al., 2012). S is the same whichever sample is of which batch; so the distance is 0 where both are of one
    distribution in the mean over draws, and may be negative in one.
    """
    both = torch.cat([working(batch).flatten(1) for batch in (samples, others)])
    centred = both - both.detach().mean(dim=0)
    scaled = _scaled(centred.detach())
    # S is held fixed: a gradient of its own would answer how the samples are weighed, not where they lie.
    products = centred @ scaled.T
    products = products + products.T - products.detach()
    of_pairs = (centred @ centred.T + products.square() / 4) / centred.shape[1]
    count = len(samples)
    own, crossed, theirs = of_pairs[:count, :count], of_pairs[:count, count:], of_pairs[count:, count:]
    return _off_diagonal_mean(own) - 2 * _off_diagonal_mean(crossed) + _off_diagonal_mean(theirs)


def distance_of_ends(
    policy: Policy, segment: Segment, data: Tensor, noise: Tensor, marks: Tensor, config: ImitationConfig
) -> Tensor:
    """How far the ends of a segment, where ``policy`` leads from its start, are from data noised to their level.

    That is the sum of the distances that ``config`` gives weights, each between all B ends and all B noised data, at
    whatever levels they are. ``data`` and ``noise`` are (B, C, *S). ``marks`` (B,) int64, such as segments and classes,
    are for the energy distance, to which they belong to what is compared; moments are those of values alone. Gradients
    reach the parameters of the policy through the whole rollout.
    """
    lower = segment.raw - segment.length
    ends = rollout(policy, segment.x, segment.raw, lower, substeps=config.substeps)
    sigma = per_sample(to_sigma(lower, policy.shift), data)
    noised = (1 - sigma) * data + sigma * noise.to(data)
    found = ends.new_zeros((), dtype=torch.float32)
    if config.energy > 0:
        found = found + config.energy * energy_distance(ends, noised, marks)
    if config.moments > 0:
        found = found + config.moments * moment_distance(ends, noised)
    return found


def _mean_distance(left: Tensor, right: Tensor, differ: Tensor) -> Tensor:
    """Mean over pairs of different places of the root of a mean square, plus what ``differ`` (B, B) adds to it."""
    # By products of matrices; of values near one another rounding may leave less than nothing.
    squares = left.square().sum(1).unsqueeze(1) + right.square().sum(1).unsqueeze(0) - 2 * left @ right.T
    return _off_diagonal_mean((squares.clamp(min=0) / left.shape[1] + differ + FLOOR).sqrt())


def _scaled(centred: Tensor) -> Tensor:
    """Centred samples (N, D) times S^-1/2 (D, D), by the smaller of the two products of ``centred`` with itself."""
    count, values = centred.shape
    narrow = values < count
    products = (centred.T @ centred if narrow else centred @ centred.T) / count
    ridge = RIDGE * products.diagonal().sum() / values + FLOOR**2
    root = _inverse_root(products + ridge * _identity(products))
    return centred @ root if narrow else root @ centred


def _inverse_root(matrix: Tensor) -> Tensor:
    """matrix^-1/2 of a positive definite one, by Newton and Schulz: products alone, so that a GPU is not waited for."""
    scale = matrix.square().sum().sqrt()
    identity = _identity(matrix)
    root, inverse = matrix / scale, identity
    for _ in range(ROUNDS):
        step = 1.5 * identity - 0.5 * inverse @ root
        root, inverse = root @ step, step @ inverse
    return inverse * scale.rsqrt()


def _identity(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=like.dtype, device=like.device)


def _off_diagonal_mean(of_pairs: Tensor) -> Tensor:
    """Mean over pairs of different places, of a number (B, B) for each pair."""
    count = len(of_pairs)
    return (of_pairs.sum() - of_pairs.diagonal().sum()) / (count * (count - 1))
