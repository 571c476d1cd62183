"""Rollouts of every policy on the device of a run, against the reference in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .computing import chosen_device
from .findings import Finding, broken, works

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.policies.base import Policy

# Of the largest value; float32 alone is a hundred times as near.
CLOSE = 1e-4
PARTS, SHIFT, SEGMENT = 8, 3.2, 0.25
SHAPE = (1, 16, 6, 6)  # channels as FLUX has them
WINDOW = 3 / 128
LEGS = 4  # in one launch, as training takes them


def rollout() -> Finding:
    """A rollout and the gradient of a mean velocity of each policy, as a run computes them."""
    from ..core.policies.kinds import ROWS

    device = chosen_device()
    errors = {kind: _error(kind, str(device)) for kind in ROWS}
    worst = max(errors, key=lambda kind: (not errors[kind] < CLOSE, errors[kind]))
    facts = {"device": str(device), "error": errors[worst], "errors": errors}
    said = f"on {device.type} all policies are within {errors[worst]:.0e} of the reference"
    # NaN is near to nothing.
    if not all(error < CLOSE for error in errors.values()):
        said = f"on {device.type} the policy {worst} is {errors[worst]:.0e} from the reference"
        return broken(said, "export PIFLOW_KERNELS=off, and report it with piflow --version --json", facts)
    return works(said, facts)


def _error(kind: str, device: str) -> float:
    """The largest error of a policy over the largest value."""
    from ..core import reference
    from ..core import rollout as front

    policy = _policy(kind)
    exact, found = _walk(reference, policy), _walk(front, _single(policy, device))
    return max(((one.cpu() - other).abs().max() / other.abs().max()).item() for one, other in zip(found, exact))


def _policy(kind: str) -> Policy:
    """A random policy in float64, cut out of the output of a network."""
    import torch

    from ..core.decoding import PolicyDecoder
    from ..core.policies.kinds import policy_class

    draw = torch.Generator().manual_seed(0)
    layout = policy_class(kind).layout(PARTS, SHAPE[1])
    width = sum(1 if part is None else part[0] * part[1] for part in layout)
    output = 0.5 * torch.randn(1, width, *SHAPE[2:], generator=draw, dtype=torch.float64)
    x = torch.randn(SHAPE, generator=draw, dtype=torch.float64)
    return PolicyDecoder(kind, PARTS, SHIFT, SEGMENT).policy(output, x, torch.ones(1, dtype=torch.float64))


def _single(policy: Policy, device: str) -> Policy:
    """The policy in float32 on a device; times stay in float64."""
    tensors = {name: getattr(policy, name).float().to(device) for name in (*policy.outputs, "x_src")}
    return replace(policy, raw_src=policy.raw_src.to(device), **tensors)


def _walk(module, policy: Policy) -> list[Tensor]:
    """States on the way through half of the segment, the mean velocity of three substeps from there, its gradient."""
    import torch

    stops = [policy.raw_src - SEGMENT / 2 * leg / LEGS for leg in range(LEGS + 1)]
    with torch.no_grad():
        states = module.rollout_through(policy, policy.x_src, stops)
    name = policy.outputs[0]
    leaf = getattr(policy, name).detach().requires_grad_()
    velocity = module.mean_velocity(replace(policy, **{name: leaf}), states[-1], stops[-1], stops[-1] - WINDOW)
    (gradient,) = torch.autograd.grad(velocity.square().sum(), leaf)
    return [*states, velocity.detach(), gradient]
