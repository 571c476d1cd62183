"""The energy distance between the ends of a student's segments and noised data (Szekely and Rizzo, 2013)."""

from __future__ import annotations

import torch
from torch import Tensor

from .imitation import Segment
from .policies.base import Policy
from .rollout import rollout
from .tensors import per_sample, working
from .timegrid import to_sigma

# Mean square per value that lies between samples of different marks, beside that between their values. Data fill
# [-1, 1]; so it matters and does not rule.
APART = 1 / 16
# The derivative of a root has no bound at 0.
FLOOR = 1e-6


def energy_distance(samples: Tensor, others: Tensor, marks: Tensor) -> Tensor:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| (scalar) of two batches (B, C, *S), by pairs of different places, B > 1.

    |.| is a root mean square over values, so that it does not depend on their number. ``marks`` (B,) int64 of both
    batches, such as classes, belong to what is compared: samples of different ones are sqrt(APART) further apart. It is
    0 where both batches are of one distribution in the mean over draws, and may be negative in one. Places may be
    paired between the batches: no sample meets its own.
    """
    differ = (marks.unsqueeze(1) != marks.unsqueeze(0)).to(torch.float32) * APART
    own, theirs = (working(batch).flatten(1) for batch in (samples, others))
    return (
        2 * _mean_distance(own, theirs, differ)
        - _mean_distance(own, own, differ)
        - _mean_distance(theirs, theirs, differ)
    )


def energy_of_ends(
    policy: Policy, segment: Segment, data: Tensor, noise: Tensor, marks: Tensor, substeps: int
) -> Tensor:
    """The energy distance of where ``policy`` leads from a segment's start to its end and of data noised to its level.

    ``data`` and ``noise`` are (B, C, *S); ``marks`` (B,) int64 tell classes and segments apart. Gradients reach the
    parameters of the policy through the whole rollout.
    """
    lower = segment.raw - segment.length
    ends = rollout(policy, segment.x, segment.raw, lower, substeps=substeps)
    sigma = per_sample(to_sigma(lower, policy.shift), data)
    return energy_distance(ends, (1 - sigma) * data + sigma * noise.to(data), marks)


def _mean_distance(left: Tensor, right: Tensor, differ: Tensor) -> Tensor:
    """Mean over pairs of different places of the root of a mean square, plus what ``differ`` (B, B) adds to it."""
    count, values = left.shape
    # By products of matrices; of values near one another rounding may leave less than nothing.
    squares = left.square().sum(1).unsqueeze(1) + right.square().sum(1).unsqueeze(0) - 2 * left @ right.T
    distances = (squares.clamp(min=0) / values + differ + FLOOR).sqrt()
    return (distances.sum() - distances.diagonal().sum()) / (count * (count - 1))
