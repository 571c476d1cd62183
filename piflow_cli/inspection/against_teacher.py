"""A student's path beside that of its teacher, from the same noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.imitation import TeacherVelocity
from ..core.rollout import rollout_through
from ..core.tensors import per_sample
from ..sampling.trajectory import PolicyPath, VelocityError, times, velocity_errors
from .teacher_policy import TeacherPolicy
from .tensors import mean_square


class PathDistance(NamedTuple):
    """Mean squares over positions and channels, (B, T), at the times of one segment, its end last.

    ``gap``: of the student's state minus the teacher's. ``teacher_speed`` (B, T-1): of the teacher's velocity on its
    own path, without the end.
    """

    gap: Tensor
    teacher_speed: Tensor


@dataclass(frozen=True)
class Comparison:
    """One segment against the teacher.

    ``errors``: of the velocity at the student's states (:mod:`piflow_cli.sampling.trajectory`). ``estimates``: the
    teacher's x_0 (B, C, *S) at these states. ``own``: its states and velocities on its own path, at the same times.
    ``end``: the end of the segment there.
    """

    errors: list[VelocityError]
    apart: PathDistance
    estimates: list[Tensor]
    own: list[tuple[Tensor, Tensor]]
    end: Tensor


def compare(path: PolicyPath, teacher: TeacherVelocity, start: Tensor, shift: float, substeps: int) -> Comparison:
    """Follow the teacher from its own state ``start`` over the segment of ``path``, and ask it at the student's states.

    ``substeps`` are the teacher's Euler steps per unit of raw time.
    """
    estimates: list[Tensor] = []
    raws = [times(raw, start) for raw in (*path.raws, path.raw_end)]
    answers: dict[float, Tensor] = {}

    # A teacher's answer is too dear to ask for twice, so both closures also keep what is wanted of it.
    def at_the_student(x: Tensor, sigma: Tensor) -> Tensor:
        answer = teacher(x, sigma)
        estimates.append(x - per_sample(sigma, x) * answer)
        return answer

    def on_its_own(x: Tensor, sigma: Tensor) -> Tensor:
        answer = teacher(x, sigma)
        if (level := sigma[0].item()) in begins:
            answers[level] = answer
        return answer

    errors = velocity_errors(path, at_the_student, shift)
    policy = TeacherPolicy(on_its_own, start, raws[0], shift)
    begins = [policy.sigma(raw).to(start)[0].item() for raw in raws[:-1]]
    states = [start, *rollout_through(policy, start, raws, substeps=substeps)]
    gap = torch.stack([mean_square(one - other) for one, other in zip((*path.states, path.end), states)], dim=1)
    own = [(x, answers[level]) for x, level in zip(states, begins)]
    speeds = torch.stack([mean_square(answer) for _, answer in own], dim=1)
    return Comparison(errors, PathDistance(gap, speeds), estimates, own, states[-1])
