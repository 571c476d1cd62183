"""Policies for tests and what makes them hard; float64 throughout, to be cast by the test."""

from __future__ import annotations

import os
from dataclasses import replace

import torch
from torch import Tensor

from piflow_cli.core.policies.dx import DXPolicy, DXPolynomialPolicy
from piflow_cli.core.policies.gmflow import GMFlowPolicy

# Where Triton's kernels run in the tests that triton_cases.py and momentum_triton_cases.py hold.
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
EXACT = {"rtol": 1e-9, "atol": 1e-9}

HARD_CASES = ("random", "near source", "near data", "one component", "all but one dropped", "large logits")


def gm_policy(
    shape: tuple[int, ...], components: int, seed: int = 0, shift: float = 3.25, raw_src=None
) -> GMFlowPolicy:
    """A random mixture for states of ``shape`` (B, C, *S) at random sources above 0.5, or at ``raw_src``."""
    draw = torch.Generator().manual_seed(seed)
    batch, channels, *space = shape

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=draw, dtype=torch.float64)

    raw = 0.5 + 0.5 * torch.rand(batch, generator=draw, dtype=torch.float64)
    return GMFlowPolicy(
        means=normal(batch, components, channels, *space),
        logweights=normal(batch, components, 1, *space),
        logstds=-3 * torch.rand(batch, generator=draw, dtype=torch.float64),
        x_src=normal(*shape),
        raw_src=raw if raw_src is None else torch.full((batch,), raw_src, dtype=torch.float64),
        shift=shift,
    )


def dx_policy(shape: tuple[int, ...], points: int, polynomial: bool, seed: int = 0) -> DXPolicy:
    draw = torch.Generator().manual_seed(seed)
    grid = torch.randn((shape[0], points, *shape[1:]), generator=draw, dtype=torch.float64)
    x_src = torch.randn(shape, generator=draw, dtype=torch.float64)
    raw = 0.5 + 0.5 * torch.rand(shape[0], generator=draw, dtype=torch.float64)
    kind = DXPolynomialPolicy if polynomial else DXPolicy
    return kind(grid, x_src, raw, segment=0.4, shift=3.25)


def hard_case(name: str, seed: int = 0, batch: int = 3) -> tuple[GMFlowPolicy, Tensor, Tensor]:
    """A policy and the raw times between which a rollout of 128 substeps a unit is hard to get right."""
    if name == "near source":
        policy = gm_policy((batch, 4, 5, 6), 8, seed, raw_src=0.9)
        return policy, policy.raw_src, policy.raw_src - 3 / 128
    if name == "near data":
        policy = gm_policy((batch, 4, 5, 6), 8, seed, raw_src=3.5 / 128)
        return policy, policy.raw_src, torch.zeros_like(policy.raw_src)
    policy = gm_policy((batch, 4, 5, 6), 1 if name == "one component" else 8, seed)
    if name == "all but one dropped":
        policy = replace(policy, dropped=torch.arange(8).expand(batch, 8) != 5)
    if name == "large logits":
        policy = replace(policy, means=8 * policy.means, logweights=20 * policy.logweights, logstds=policy.logstds - 3)
    return policy, policy.raw_src, policy.raw_src * 0.1


def cast(policy, dtype: torch.dtype):
    """The policy with its tensors (times apart) in another dtype."""
    return replace(policy, **{name: getattr(policy, name).to(dtype) for name in (*policy.outputs, "x_src")})


def on_device(policy):
    """The policy where kernels run."""
    tensors = {name: value.to(DEVICE) for name, value in vars(policy).items() if isinstance(value, Tensor)}
    return replace(policy, **{name: value for name, value in tensors.items() if name != "sigma_src"})


def packed(policy: GMFlowPolicy) -> GMFlowPolicy:
    """The same mixture as views of tokens (B, N, K C p + K p + 1), as a FLUX head emits it; space must be (N, p)."""
    batch, components, channels, tokens, patch = policy.means.shape
    means = policy.means.permute(0, 3, 1, 2, 4).flatten(2)
    logweights = policy.logweights.permute(0, 3, 1, 2, 4).flatten(2)
    logstds = policy.logstds.reshape(-1, 1, 1).expand(batch, tokens, 1)
    output = torch.cat([means, logweights, logstds], dim=2)
    sizes = [components * channels * patch, components * patch, 1]
    means, logweights, logstds = output.split(sizes, dim=2)
    return replace(
        policy,
        means=means.unflatten(2, (components, channels, patch)).movedim(1, 3),
        logweights=logweights.unflatten(2, (components, 1, patch)).movedim(1, 3),
        logstds=logstds[:, 0, 0],
        x_src=policy.x_src.movedim(2, 1).contiguous().movedim(1, 2),
    )
