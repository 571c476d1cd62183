"""How a teacher answers off its own path: states of the path are pushed by known amounts of noise.

A push adds noise that has nothing to do with the picture. So the x_0 that is expected of the teacher at x + delta is
the one it gives at x, and the expected velocity is the one that leads there, (x + delta - x_0) / sigma. A student in
training asks its teacher about states off the teacher's path, and learns what it answers; for teachers that answer
badly pi-Flow (arXiv 2510.14974, section 4) has scheduled mixing. Two numbers say how far an answer is off:

    gain = rms(x_0(x + delta) - x_0(x)) / rms(delta)
    velocity error = rms(x_0(x + delta) - x_0(x)) / rms(x + delta - x_0(x))

A teacher of gain 0 takes the push for noise, of gain 1 for a part of the picture; above 1 it makes more of it. Of data
that are a Gaussian of spread s the exact gain is (1 - sigma) s^2 / ((1 - sigma)^2 s^2 + sigma^2), whatever the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.imitation import TeacherVelocity
from ..core.tensors import per_sample
from ..core.timegrid import to_sigma
from ..sampling.trajectory import times
from .against_teacher import Comparison
from .robustness import SIZES
from .tensors import mean_square

ASKED = 4  # states of a whole path that are pushed: each costs an evaluation for every size


class Pushes(NamedTuple):
    """Mean squares over positions and channels, (B, T, sizes), for the T states of a segment that are pushed.

    ``given``: of the push; ``moved``: of the change of x_0; ``expected``: of sigma times the velocity that is expected.
    """

    given: Tensor
    moved: Tensor
    expected: Tensor


def pushed_states(index: int, points: int, segments: int) -> list[int]:
    """The places of those of the ``points`` states of segment ``index`` that are pushed.

    They are ASKED of a whole path, evenly, and none is its start.
    """
    apart = points * segments // ASKED
    return [place for place in range(points) if (index * points + place) % apart == apart // 2]


def push(
    against: Comparison,
    asked: Sequence[int],
    raws: Sequence[float],
    teacher: TeacherVelocity,
    noise: Tensor,
    shift: float,
) -> Pushes:
    """Push the teacher's own states at the places ``asked`` by ``noise`` (B, C, *S) of each of SIZES, in sigma there.

    ``raws``: of all states of the segment.
    """
    found = [_pushed(*against.own[place], to_sigma(raws[place], shift), teacher, noise) for place in asked]
    shape = (len(noise), 0, len(SIZES))
    columns = zip(*found) if found else [()] * len(Pushes._fields)
    return Pushes(*(torch.stack(column, dim=1) if column else noise.new_zeros(shape) for column in columns))


def _pushed(x: Tensor, answer: Tensor, sigma: float, teacher: TeacherVelocity, noise: Tensor) -> list[Tensor]:
    """What :class:`Pushes` has of one state, each (B, sizes)."""
    level = times(sigma, x)
    x_0 = x - per_sample(level, x) * answer
    squares = []
    for size in SIZES:
        delta = size * sigma * noise
        expected = x + delta - x_0
        moved = expected - per_sample(level, x) * teacher(x + delta, level.to(x.dtype))
        squares.append(torch.stack([mean_square(value) for value in (delta, moved, expected)]))
    return list(torch.stack(squares, dim=2).unbind(0))


def gains(pushes: Pushes) -> Tensor:
    """Gain (T, sizes) over all samples."""
    return (pushes.moved.mean(dim=0) / pushes.given.mean(dim=0)).sqrt()


def velocity_errors(pushes: Pushes) -> Tensor:
    """Velocity error (T, sizes) over all samples."""
    return (pushes.moved.mean(dim=0) / pushes.expected.mean(dim=0)).sqrt()
