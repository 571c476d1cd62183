"""The front door to integration: follow a policy, or average its velocity, between two raw times.

It checks its input and hands it to the fastest path. GM policies have a fused kernel, DX policies a closed form, and
momentum policies kernels on a GPU: each class of policies names its own. All others, and everything under
``PIFLOW_KERNELS=off``, take the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from . import reference
from .policies.base import Policy
from .tensors import working
from .validation import PolicyError, check_descending, check_finite, check_shape, values_are_readable


def rollout(policy: Policy, x: Tensor, raw_from: Tensor, raw_to: Tensor, *, substeps: int = 128) -> Tensor:
    """Follow the policy from states ``x`` (B, C, *S) at ``raw_from`` (B,) down to ``raw_to`` (B,).

    Each sample takes max(1, round(substeps * interval)) Euler steps (pi-Flow, arXiv 2510.14974, section 3). Returns
    states (B, C, *S), float32 (float64 for float64 input); gradients reach the policy's parameters and ``x``. Raises
    :class:`~piflow_cli.core.validation.PolicyError` for impossible input; values are checked in host memory only.
    """
    return _follow(policy, x, [raw_from, raw_to], ["raw_from", "raw_to"], substeps)[0]


def rollout_through(policy: Policy, x: Tensor, raws: Sequence[Tensor], *, substeps: int = 128) -> list[Tensor]:
    """States at each of ``raws[1:]`` on the way from ``x`` at ``raws[0]``; every leg takes its own substeps."""
    if len(raws) < 2:
        raise PolicyError("raws", "needs a start and at least one end")
    return _follow(policy, x, list(raws), [f"raws[{index}]" for index in range(len(raws))], substeps)


def mean_velocity(
    policy: Policy, x: Tensor, raw_from: Tensor, raw_to: Tensor, *, substeps: int = 128, longest: float = 1.0
) -> Tensor:
    """Displacement over change of sigma of a rollout from ``x`` at ``raw_from`` (B,) to ``raw_to`` (B,), (B, C, *S).

    An interval of fewer than two substeps, of length zero too, gives the velocity at ``raw_from``. ``longest`` is a
    bound on the raw intervals that the host knows: backward on a GPU sets aside that many substeps of scratch memory
    without asking the device, and an interval beyond it is followed in that many longer steps.
    """
    raws = [raw_from, raw_to]
    _check(policy, x, raws, ["raw_from", "raw_to"], substeps)
    mean = _mean_velocity(policy, working(x), raws, substeps, longest)
    _check_values(policy, x, [mean])
    return mean


def mean_velocities(
    policy: Policy, x: Tensor, raw_from: Tensor, raw_to: Tensor, *, substeps: int = 128, longest: float = 1.0
) -> Tensor:
    """:func:`mean_velocity` from n states of each sample at once: ``x`` (n, B, C, *S), raw times (n, B).

    On a GPU it launches as much for many states as for one. Returns (n, B, C, *S).
    """
    if x.ndim != policy.x_src.ndim + 1:
        raise PolicyError("x", f"{x.ndim} axes where a stack of states has {policy.x_src.ndim + 1}")
    raws = [raw.flatten() for raw in (raw_from, raw_to)]
    policy = policy.repeated(len(x))
    return mean_velocity(policy, x.flatten(0, 1), *raws, substeps=substeps, longest=longest).unflatten(0, x.shape[:2])


def _mean_velocity(policy: Policy, x: Tensor, raws: list[Tensor], substeps: int, longest: float) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        if (fast := _fast_rollout(policy, x)) is not None:
            return fast.mean_velocity(policy, x, _beside(raws, x), substeps, longest)
        return reference.mean_velocity(policy, x, *raws, substeps=substeps)


def _follow(policy: Policy, x: Tensor, raws: list[Tensor], names: list[str], substeps: int) -> list[Tensor]:
    _check(policy, x, raws, names, substeps)
    states = _states(policy, working(x), raws, substeps)
    _check_values(policy, x, states)
    return states


def _states(policy: Policy, x: Tensor, raws: list[Tensor], substeps: int) -> list[Tensor]:
    # Policy arithmetic stays in float32 even inside a bf16 autocast, in which the network runs.
    with torch.autocast(x.device.type, enabled=False):
        if (fast := _fast_rollout(policy, x)) is not None:
            return fast.rollout_through(policy, x, _beside(raws, x), substeps)
        return reference.rollout_through(policy, x, raws, substeps=substeps)


def _fast_rollout(policy: Policy, x: Tensor) -> ModuleType | None:
    """The kernels that the class of ``policy`` itself names, where they can follow it; a base class's do not count."""
    named = vars(type(policy)).get("fast_rollout")
    if named is None:
        return None
    module = import_module(f".kernels.{named}", __package__)
    return module if module.follows(policy, x) else None


def _beside(raws: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    return [raw.to(x.device, non_blocking=True) for raw in raws]


def _check(policy: Policy, x: Tensor, raws: Sequence[Tensor], names: list[str], substeps: int) -> None:
    """Refuse what no rollout can follow; it reads times and log-stds in host memory only."""
    if substeps < 1:
        raise PolicyError("substeps", f"must be at least 1, not {substeps}")
    check_shape("x", x, policy.x_src.shape)
    policy.check_source()
    check_descending([policy.raw_src, *raws], ["raw_src", *names], x.shape[0])


def _check_values(policy: Policy, x: Tensor, results: Sequence[Tensor]) -> None:
    """Refuse states and parameters that are not finite, in host memory only, where ``results`` show that some are.

    Every result is a sum over all of them, so a value that is not finite shows in it.
    """
    if all(not values_are_readable(result) or result.detach().sum().isfinite() for result in results):
        return
    for name, value in (("x", x), ("x_src", policy.x_src)):
        check_finite(name, value)
    policy.check_outputs()
