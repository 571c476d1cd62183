"""GM rollouts through a fused backend, differentiable in the policy's parameters and the starting state."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..policies.gmflow import GMFlowPolicy
from . import backend as backend_for


def follows(policy: GMFlowPolicy, x: Tensor) -> bool:
    """Whether there is a backend for the device of ``x`` that gives all gradients that are wanted."""
    # The backends hold the source state for data.
    suffices = not (torch.is_grad_enabled() and policy.x_src.requires_grad)
    return suffices and backend_for(x.device) is not None


def rollout_through(
    policy: GMFlowPolicy, x: Tensor, raws: list[Tensor], substeps: int, backend: ModuleType | None = None
) -> list[Tensor]:
    """States at the ends of the legs between ``raws``; in one launch where no gradient is wanted.

    ``backend``: None is that of the device.
    """
    backend = _backend(x, backend)
    if not _wants_gradient(policy, x):
        return list(
            backend.states(policy, x, backend.coefficient_table(policy, raws, substeps, averaged=False)).unbind(0)
        )
    states = []
    for raw_from, raw_to in pairwise(raws):
        x = x + _integral(backend, policy, x, [raw_from, raw_to], substeps, averaged=False)
        states.append(x)
    return states


def mean_velocity(
    policy: GMFlowPolicy,
    x: Tensor,
    raws: list[Tensor],
    substeps: int,
    longest: float,
    backend: ModuleType | None = None,
) -> Tensor:
    """Velocity averaged over sigma along a rollout from ``x`` at ``raws[0]`` to ``raws[1]``."""
    return _integral(_backend(x, backend), policy, x, raws, substeps, averaged=True, longest=longest)


def _backend(x: Tensor, given: ModuleType | None) -> ModuleType:
    backend = backend_for(x.device) if given is None else given
    assert backend is not None, "usable() is asked first"
    return backend


def _wants_gradient(policy: GMFlowPolicy, x: Tensor) -> bool:
    inputs = (policy.means, policy.logweights, policy.logstds, x)
    return torch.is_grad_enabled() and any(value.requires_grad for value in inputs)


def _integral(
    backend: ModuleType,
    policy: GMFlowPolicy,
    x: Tensor,
    raws: list[Tensor],
    substeps: int,
    *,
    averaged: bool,
    longest: float = 1.0,
) -> Tensor:
    held = policy.detach()
    table = backend.coefficient_table(held, raws, substeps, averaged=averaged, longest=longest)
    return _Integral.apply(backend, held, table, policy.means, policy.logweights, policy.logstds, x)


class _Integral(torch.autograd.Function):
    """Weighted sum of the velocities along a rollout."""

    @staticmethod
    def forward(
        ctx,
        backend: ModuleType,
        policy: GMFlowPolicy,
        table,
        means: Tensor,
        logweights: Tensor,
        logstds: Tensor,
        x: Tensor,
    ):
        ctx.backend, ctx.policy, ctx.table = backend, policy, table
        ctx.save_for_backward(means, logweights, logstds, x)
        out, ctx.kept = backend.integral(policy, x.detach(), table, keep=any(ctx.needs_input_grad))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        means, logweights, logstds, x = ctx.saved_tensors
        policy = replace(ctx.policy, means=means.detach(), logweights=logweights.detach(), logstds=logstds.detach())
        gradients = ctx.backend.integral_backward(policy, x.detach(), ctx.table, grad, ctx.kept)
        return (None, None, None, *gradients)
