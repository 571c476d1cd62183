"""A student's own trajectory, and the distance of its policies' velocities from its teacher's along it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ..core.imitation import TeacherVelocity
from ..core.policies.base import Policy
from ..core.rollout import rollout, rollout_through
from ..core.timegrid import to_sigma
from ..students.scheduler import as_sampled
from ..students.student import Student
from ..teachers.base import Conditioning

# States of each evaluation at which commands compare policy and teacher.
POINTS = 8


@dataclass(frozen=True)
class PolicyPath:
    """The policy of one network evaluation, and the states that it visits on the way to the next one.

    ``states[i]`` (B, C, *S) is at raw time ``raws[i]``, from the source (first) on, evenly in raw time; ``end`` is the
    state at raw time ``raw_end``, where the next evaluation is, or the sample.
    """

    index: int
    policy: Policy
    raws: tuple[float, ...]
    states: list[Tensor]
    raw_end: float
    end: Tensor


@dataclass(frozen=True)
class VelocityError:
    """Mean squares over a batch, at one time, of policy minus teacher velocity and of the teacher's velocity."""

    index: int
    raw: float
    sigma: float
    squared: float
    teacher: float

    @property
    def relative(self) -> float:
        """The error as a share of the teacher's own mean square; 0 where both vanish."""
        return 0.0 if self.squared == 0 else self.squared / max(self.teacher, 1e-12)


@torch.no_grad()
def walk(
    student: Student,
    noise: Tensor,
    conditioning: Conditioning,
    *,
    steps: int | None = None,
    substeps: int | None = None,
    temperature: float | str | None = None,
    points: int = POINTS,
) -> Iterator[PolicyPath]:
    """The path from ``noise`` (B, C, *S) as the student is sampled; arguments that are None are as trained.

    ``points`` states of each segment are kept; between two of them the policy takes a whole number of substeps of its
    own. The ends are those of :class:`~piflow_cli.students.scheduler.PolicyScheduler`.
    """
    facts = student.facts
    nfe = facts.nfe if steps is None else steps
    substeps = facts.substeps if substeps is None else substeps
    temperature = facts.sampling_temperature if temperature is None else temperature
    x = student.family.parameterisation.first_state(noise)
    for index, (upper, lower) in enumerate(pairwise(student.grid(nfe).edges)):
        policy = as_sampled(student.policy(student.model, x, times(upper, x), conditioning), temperature, index, nfe)
        raws = tuple(upper - (upper - lower) * part / points for part in range(points))
        states = [x]
        if points > 1:
            states += rollout_through(policy, x, [times(raw, x) for raw in raws], substeps=substeps)
        end = rollout(policy, x, times(upper, x), times(lower, x), substeps=substeps)
        yield PolicyPath(index, policy, raws, states, lower, end)
        x = end


@torch.no_grad()
def velocity_errors(path: PolicyPath, teacher: TeacherVelocity, shift: float) -> list[VelocityError]:
    """Errors of the policy's velocities against the teacher's at the states of ``path``."""
    errors = []
    for raw, x in zip(path.raws, path.states, strict=True):
        sigma = to_sigma(raw, shift)
        answer = teacher(x, times(sigma, x).to(x.dtype)).float()
        difference = path.policy.velocity(x, times(raw, x)) - answer
        squares = [value.square().mean().item() for value in (difference, answer)]
        errors.append(VelocityError(path.index, raw, sigma, *squares))
    return errors


def pooled(batches: Sequence[tuple[int, Sequence[VelocityError]]]) -> list[VelocityError]:
    """Errors of several batches, given as (samples, errors at the same times), pooled into one."""
    total = sum(samples for samples, _ in batches)
    together = []
    for column in zip(*(errors for _, errors in batches), strict=True):
        means = [
            sum(samples * getattr(error, name) for (samples, _), error in zip(batches, column)) / total
            for name in ("squared", "teacher")
        ]
        together.append(replace(column[0], squared=means[0], teacher=means[1]))
    return together


def relative_error(errors: Sequence[VelocityError]) -> float:
    """Mean squared velocity error over the mean square of the teacher's velocity, over all times of a path."""
    squared, teacher = (sum(getattr(error, name) for error in errors) / len(errors) for name in ("squared", "teacher"))
    return VelocityError(0, 0.0, 0.0, squared, teacher).relative


def times(value: float, like: Tensor) -> Tensor:
    """One time for each sample of ``like`` (B, ...): (B,) float64 on its device."""
    return torch.full((like.shape[0],), value, dtype=torch.float64, device=like.device)
