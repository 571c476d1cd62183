"""Robustness to perturbations: a policy may steer back, or carry them to the end (pi-Flow, arXiv 2510.14974).

A policy whose x_0 ignores the state moves a perturbed state on by x <- (1 + dsigma / sigma) x + ..., so that
of a perturbation at sigma_p the share sigma / sigma_p is left at sigma: the passive factor, which is that of
the closed form of DX. A teacher answers a perturbed state with another x_0. The steering ratio is the share
of that answer which the policy gives too:

    steering = 1 - rms(D - D*) / rms(D* - passive delta)

with D, D* the changes at the segment's end that the perturbation delta makes for policy and teacher. It is 1 for a
policy that steers as the teacher does, 0 for one that lets pass, and negative for one that steers elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.imitation import TeacherVelocity
from ..core.policies.base import Policy
from ..core.rollout import rollout, rollout_through
from ..core.timegrid import to_sigma
from ..sampling.trajectory import PolicyPath, times
from .teacher_policy import TeacherPolicy
from .tensors import mean_square, thin

SIZES = (0.03, 0.1, 0.3, 1.0)
TIMES = 9
MEASURED = "measured"
TYPICAL = 0.3  # the size that is shown where there is room for one


class Response(NamedTuple):
    """Mean squares over positions and channels in response to one perturbation.

    ``given`` (B,): of the perturbation; ``left`` (B, TIMES): of the change it makes, at even raw times from where it is
    put in to the segment's end; ``lasting`` (B, TIMES): the same for the teacher; ``astray`` (B,): of the policy's
    change at the end minus the teacher's; ``answer`` (B,): of the teacher's change at the end minus what would pass
    through. The last three are None without a teacher.
    """

    given: Tensor
    left: Tensor
    lasting: Tensor | None = None
    astray: Tensor | None = None
    answer: Tensor | None = None


def size_name(size: float) -> str:
    """How noise of ``size`` is called in reports."""
    return f"{size:g} sigma"


def passive(raw_from: float, raw_to: float, shift: float) -> float:
    """The share of a perturbation that is left where x_0 does not react."""
    return to_sigma(raw_to, shift) / to_sigma(raw_from, shift)


def respond(
    policy: Policy,
    teacher: Policy | None,
    x: Tensor,
    deltas: Mapping[str, Tensor],
    raw_from: float,
    raw_to: float,
    substeps: int,
) -> dict[str, Response]:
    """Follow the policy, and the teacher if there is one, from ``x`` and from ``x`` plus each of ``deltas`` (B, C, *S).

    All start at ``raw_from``, and take ``substeps`` per unit of raw time.
    """
    raws = [times(raw, x) for raw in torch.linspace(raw_from, raw_to, TIMES, dtype=torch.float64).tolist()]

    def follow(who: Policy, start: Tensor) -> list[Tensor]:
        return rollout_through(who, start, raws, substeps=substeps)

    def squares(first: Tensor, changes: list[Tensor]) -> Tensor:
        return torch.stack([mean_square(value) for value in (first, *changes)], dim=1)

    plain = follow(policy, x)
    theirs_plain = None if teacher is None else follow(teacher, x)
    responses = {}
    for name, delta in deltas.items():
        changes = [one - other for one, other in zip(follow(policy, x + delta), plain)]
        found = Response(mean_square(delta), squares(delta, changes))
        if teacher is not None and theirs_plain is not None:
            theirs = [one - other for one, other in zip(follow(teacher, x + delta), theirs_plain)]
            found = found._replace(
                lasting=squares(delta, theirs),
                astray=mean_square(changes[-1] - theirs[-1]),
                answer=mean_square(theirs[-1] - passive(raw_from, raw_to, policy.shift) * delta),
            )
        responses[name] = found
    return responses


def perturb(
    path: PolicyPath, noise: Tensor, teacher: TeacherVelocity | None, shift: float, substeps: int
) -> dict[str, Response]:
    """Responses in the middle of a segment to ``noise`` (B, C, *S) of each of SIZES, by their names.

    SIZES are in units of sigma there. With a teacher there is also ``measured``, the response to the student's own
    error: from the student's state to the teacher's.
    """
    middle = len(path.raws) // 2
    raw, x = path.raws[middle], path.states[middle]
    deltas = {size_name(size): size * to_sigma(raw, shift) * noise for size in SIZES}
    follower = None
    if teacher is not None:
        source = path.states[0]
        follower = TeacherPolicy(teacher, source, times(path.raws[0], source), shift)
        there = rollout(follower, source, times(path.raws[0], source), times(raw, source), substeps=substeps)
        deltas[MEASURED] = there - x
    return respond(path.policy, follower, x, deltas, raw, path.raw_end, substeps)


def steering(response: Response) -> float | None:
    """The steering ratio of a batch (see above); None without a teacher, or where it does not answer at all."""
    if response.astray is None or response.answer is None or response.answer.mean() == 0:
        return None
    return 1 - (response.astray.mean() / response.answer.mean()).sqrt().item()


def shares(given: Tensor, left: Tensor) -> list[float]:
    """Root mean square of what is left over that of what was given, by time."""
    return (left.mean(dim=0) / given.mean().clamp(min=1e-30)).sqrt().tolist()


def component_dropout(path: PolicyPath, substeps: int) -> Tensor:
    """Mean squares (B, K) of the change of the segment's end when each component in turn is left out.

    They are over the positions of :func:`~piflow_cli.inspection.tensors.thin`. A mixture of one component has none.
    """
    policy: Any = thin(path.policy)
    batch, components = policy.means.shape[:2]
    if components == 1:
        return policy.means.new_zeros(batch, 0)
    ends = []
    for dropped in (None, *torch.eye(components, dtype=torch.bool, device=policy.means.device)):
        without = policy if dropped is None else replace(policy, dropped=dropped.expand(batch, components))
        x = without.x_src
        ends.append(rollout(without, x, times(path.raws[0], x), times(path.raw_end, x), substeps=substeps))
    return torch.stack([mean_square(end - ends[0]) for end in ends[1:]], dim=1)
