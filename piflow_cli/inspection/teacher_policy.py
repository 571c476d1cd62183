"""A teacher read as a policy, so that the same rollouts follow both."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.imitation import TeacherVelocity
from ..core.policies.base import Policy
from ..core.tensors import per_sample, working


@dataclass(frozen=True, eq=False)
class TeacherPolicy(Policy):
    """A teacher's velocity as a policy from ``x_src`` (B, C, *S) at raw times ``raw_src`` (B,).

    Rollouts take the plain loop, whose Euler steps and times are those of any other policy.
    """

    field: TeacherVelocity
    x_src: Tensor
    raw_src: Tensor
    shift: float

    def velocity(self, x: Tensor, raw: Tensor) -> Tensor:
        x = working(x)
        return self.field(x, self.sigma(raw).to(x)).to(x.dtype)

    def posterior_mean(self, x: Tensor, raw: Tensor) -> Tensor:
        x = working(x)
        return x - per_sample(self.sigma(raw), x) * self.velocity(x, raw)
