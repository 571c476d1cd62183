"""Ideas 1 and 9: the error of the velocity counts more at some noise levels than at others, by 1 in the mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from piflow_cli.core import imitation
from piflow_cli.core.tensors import per_sample
from piflow_cli.core.timegrid import to_sigma

from .pieces import Walk, wrap

Weight = Callable[[Tensor], Tensor]
"""Noise levels of any shape → weights whose mean over them all is 1."""


def weighted(weight: Weight) -> None:
    """Weight the squared error at each state: both of its sides are multiplied by the root."""

    def root(raws: Tensor, shift: float) -> Tensor:
        return weight(to_sigma(raws, shift)).sqrt()

    def teacher_side(walk: Walk) -> Walk:
        def walked(walker, teacher, segment, intervals, config):
            states, raws, answers, *last = walk(walker, teacher, segment, intervals, config)
            roots = root(raws, config.grid.shift)
            return states, raws, [per_sample(own, answer) * answer for own, answer in zip(roots, answers)], *last

        return walked

    def student_side(mean_velocities: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def scaled(policy, x, raws, ends, **options: Any) -> Tensor:
            found = mean_velocities(policy, x, raws, ends, **options)
            roots = per_sample(root(raws, policy.shift).flatten(), found.flatten(0, 1))
            return found * roots.unflatten(0, raws.shape)

        return scaled

    wrap(imitation, "_walk_alone", teacher_side)
    wrap(imitation, "mean_velocities", student_side)


def even(sigma: Tensor) -> Tensor:
    """The weight of the published recipe."""
    return sigma * 0 + 1


def reaching(std: float) -> Weight:
    """The square of what of an error made at sigma reaches the end of the path, were data a Gaussian of this ``std``.

    Its flow scales states by r(sigma) = sqrt((1 - sigma)^2 std^2 + sigma^2), so that std / r(sigma) of an error is left
    at 0. That grows with ``std``: the largest of the data's directions bounds all of them.
    """
    return lambda sigma: 2 * std / math.pi / ((1 - sigma) ** 2 * std**2 + sigma**2)


def of_x_0_below(level: float) -> Weight:
    """The error of x_0 = x - sigma u in place of that of u below a noise ``level``, where it is the smaller one."""
    return lambda sigma: (sigma / level).clamp(max=1) ** 2 / (1 - 2 * level / 3)
