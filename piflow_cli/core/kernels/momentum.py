"""Momentum rollouts on a GPU: the closed form of the policy in one kernel a leg, with another one for its gradients.

Everywhere else the closed form in PyTorch follows the policy (:mod:`piflow_cli.core.reference`).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..policies.momentum import MomentumPolicy
from . import backend


def follows(policy: MomentumPolicy, x: Tensor) -> bool:
    """Whether the kernels can be launched where ``x`` lies."""
    return x.device.type == "cuda" and backend(x.device) is not None


def rollout_through(policy: MomentumPolicy, x: Tensor, raws: list[Tensor], substeps: int) -> list[Tensor]:
    """States at the ends of the legs between ``raws``; in one launch where no gradient is wanted.

    The closed form takes no substeps.
    """
    from .momentum_triton import followed

    if not _wants_gradient(policy, x):
        return list(followed(policy, x, raws, substeps, added=True).unbind(0))
    states = []
    for raw_from, raw_to in pairwise(raws):
        x = followed(policy, x, [raw_from, raw_to], substeps, added=True).squeeze(0)
        states.append(x)
    return states


def mean_velocity(policy: MomentumPolicy, x: Tensor, raws: list[Tensor], substeps: int, longest: float) -> Tensor:
    """Velocity averaged over sigma between ``raws[0]`` and ``raws[1]``; that at ``raws[0]`` below two substeps.

    ``longest`` is there for other rollouts: the closed form takes any interval.
    """
    from .momentum_triton import followed

    return followed(policy, x, raws, substeps, added=False).squeeze(0)


def _wants_gradient(policy: MomentumPolicy, x: Tensor) -> bool:
    inputs = (policy.means, policy.logweights, policy.loggammas, x)
    return torch.is_grad_enabled() and any(value.requires_grad for value in inputs)
