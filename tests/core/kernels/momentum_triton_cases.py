"""The Triton kernels of momentum against the closed form in PyTorch; run as :mod:`triton_cases` is."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import random_momentum
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_cases import DEVICE, EXACT, cast, on_device
from torch import Tensor

from piflow_cli.core import reference
from piflow_cli.core.draws import draw_dropped
from piflow_cli.core.kernels import momentum
from piflow_cli.core.kernels.layout import flatten_positions
from piflow_cli.core.policies.momentum import MomentumPolicy

SUBSTEPS = 128
BETWEEN = st.sampled_from([(1.0, 0.3), (0.9, 0.9), (0.9, 0.89), (0.4, 0.0), (1.0, 1.0)])  # of the source's raw time


def leaves_of(policy: MomentumPolicy, x: Tensor) -> tuple[MomentumPolicy, Tensor, list[Tensor]]:
    """The policy and the state where gradients are wanted, and the tensors that have them."""
    leaves = {name: getattr(policy, name).detach().requires_grad_() for name in policy.outputs}
    x = x.detach().requires_grad_()
    return replace(policy, **leaves), x, [*leaves.values(), x]


def outcome(module, policy: MomentumPolicy, x: Tensor, raws: list[Tensor], averaged: bool) -> list[Tensor]:
    """States or a mean velocity (legs, B, C, *S), and the gradients of an inner product with them."""
    bound, x, leaves = leaves_of(policy, x)
    if averaged and module is reference:
        out = module.mean_velocity(bound, x, *raws, substeps=SUBSTEPS).unsqueeze(0)
    elif averaged:
        out = module.mean_velocity(bound, x, raws, SUBSTEPS, 1.0).unsqueeze(0)
    else:
        out = torch.stack(module.rollout_through(bound, x, raws, substeps=SUBSTEPS))
    seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = leaves[:3] if averaged else leaves
    return [out.detach(), *torch.autograd.grad((out * seed.to(out)).sum(), wanted)]


def raws_of(policy: MomentumPolicy, *shares: float) -> list[Tensor]:
    return [policy.raw_src * share for share in shares]


def assert_as_the_closed_form(policy: MomentumPolicy, shares: tuple[float, ...], averaged: bool) -> None:
    x = policy.x_src + 0.1
    there = on_device(policy)
    found = outcome(momentum, there, x.to(DEVICE), raws_of(there, *shares), averaged)
    for one, other in zip(found, outcome(reference, policy, x, raws_of(policy, *shares), averaged), strict=True):
        torch.testing.assert_close(one.cpu(), other, **EXACT)


@given(
    st.tuples(st.integers(1, 2), st.integers(2, 5), st.integers(1, 5), st.lists(st.integers(1, 4), max_size=4)),
    BETWEEN,
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=6)
def test_any_shape_equals_the_closed_form_in_float64(sizes, shares, drop, averaged) -> None:
    """With gradients of means, log-weights, log-gammas and, of a rollout, the state."""
    batch, components, channels, space = sizes
    raw = torch.linspace(0.9, 0.6, batch, dtype=torch.float64)
    policy = random_momentum(batch, components, channels, tuple(space), raw_src=raw, shift=3.25)
    if drop:
        policy = policy.without(draw_dropped(batch, components, 0.5, torch.Generator().manual_seed(0)))
    assert_as_the_closed_form(policy, shares, averaged)


def test_one_sample_repeated_without_a_copy_is_read_where_it_lies() -> None:
    policy = random_momentum(1, 4, 3, (5,), raw_src=0.9, shift=3.25).repeated(3)
    assert policy.means.stride(0) == 0
    assert_as_the_closed_form(policy, (0.9, 0.8), True)


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-6, 0.3, 3.0, 20.0])
@pytest.mark.parametrize("averaged", [False, True])
def test_the_growth_keeps_its_digits_whatever_the_rate(size: float, averaged: bool) -> None:
    """Near zero, on both sides of where the series ends, and far beyond."""
    policy = random_momentum(1, 6, 3, (5,), raw_src=0.75, shift=3.25)
    sign = torch.tensor([-1.0, -1.01, 0.99, 1.0, -0.2], dtype=torch.float64).reshape(1, 5, 1, 1)
    policy = replace(policy, loggammas=(size * sign).expand(1, 5, 1, 5).contiguous())
    assert_as_the_closed_form(policy, (0.9, 0.1), averaged)


def test_legs_in_one_launch_equal_legs_one_by_one() -> None:
    policy = on_device(random_momentum(2, 4, 3, (3, 2), shift=3.25))
    x, raws = policy.x_src * 1.1, raws_of(policy, 0.95, 0.7, 0.7, 0.2)
    found = momentum.rollout_through(policy, x, raws, SUBSTEPS)
    for (start, end), state in zip(pairwise(raws), found, strict=True):
        (x,) = momentum.rollout_through(policy, x, [start, end], SUBSTEPS)
        torch.testing.assert_close(state, x, **EXACT)
    wanted = reference.rollout(policy, policy.x_src * 1.1, raws[0], raws[-1])
    torch.testing.assert_close(found[-1], wanted, **EXACT)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 8.0])
@pytest.mark.parametrize("averaged", [False, True])
def test_float32_is_at_most_twice_as_far_from_float64_as_the_closed_form(scale: float, averaged: bool) -> None:
    wide = random_momentum(2, 8, 4, (3, 4), raw_src=0.9, shift=3.25)
    narrow = cast(replace(wide, loggammas=wide.loggammas * scale, logweights=wide.logweights * 3), torch.float32)
    exact = cast(narrow, torch.float64)
    there, x = on_device(narrow), narrow.x_src * 1.1
    shares = (0.9, 0.6) if averaged else (0.9, 0.6, 0.2)
    found = outcome(momentum, there, x.to(DEVICE), raws_of(there, *shares), averaged)
    plain = outcome(reference, narrow, x, raws_of(narrow, *shares), averaged)
    truth = outcome(reference, exact, x.double(), raws_of(exact, *shares), averaged)
    for one, other, right in zip(found, plain, truth, strict=True):
        floor = torch.finfo(torch.float32).eps * right.abs().max().item()
        error, allowed = ((value.cpu() - right).abs().max().item() for value in (one, other))
        assert error <= 2 * allowed + floor


def test_tokens_in_bf16_are_read_where_they_lie_and_their_gradients_lie_there_too() -> None:
    """As packed tokens hold them: parts and positions of a patch first, then tokens; states as a transpose."""
    exact = cast(random_momentum(2, 3, 4, (6, 4), shift=3.25), torch.bfloat16)
    parts = {
        name: getattr(exact, name).permute(0, 3, 1, 2, 4).contiguous().permute(0, 2, 3, 1, 4) for name in exact.outputs
    }
    laid, raws = on_device(replace(exact, **parts)), [exact.raw_src * 0.9, exact.raw_src * 0.5]
    x = exact.x_src.float().movedim(1, 3).contiguous().movedim(3, 1)
    found = outcome(momentum, laid, x.to(DEVICE), [raw.to(DEVICE) for raw in raws], False)
    wanted = outcome(reference, exact, x, raws, False)
    torch.testing.assert_close(found[0].cpu(), wanted[0])
    for gradient, other, name in zip(found[1:4], wanted[1:4], exact.outputs, strict=True):
        assert (gradient.dtype, gradient.stride()) == (torch.bfloat16, parts[name].stride())
        torch.testing.assert_close(gradient.cpu(), other)


def test_views_of_one_output_equal_their_copies() -> None:
    """What a head gives is one tensor, and the policy's are slices of it that do not fill their memory."""
    policy = on_device(cast(random_momentum(2, 3, 4, (6,)), torch.float32))
    parts = [getattr(policy, name) for name in policy.outputs]
    sizes = [part.shape[1] * part.shape[2] for part in parts]
    output = torch.cat([flatten_positions(part.flatten(1, 2), 2) for part in parts], dim=1)
    views = [view.reshape(part.shape) for view, part in zip(output.split(sizes, dim=1), parts, strict=True)]
    one = replace(policy, **dict(zip(policy.outputs, views, strict=True)))
    assert not one.means.is_contiguous()
    x, raws = policy.x_src, raws_of(policy, 0.9, 0.5)
    found, wanted = (outcome(momentum, each, x, raws, False) for each in (one, policy))
    assert all(torch.equal(value, other) for value, other in zip(found, wanted, strict=True))


def test_a_rollout_of_length_zero_returns_the_state_bit_for_bit() -> None:
    policy = on_device(cast(random_momentum(2, 4, 3, (5,), shift=3.25), torch.float32))
    x = policy.x_src * 1.1 + 1e-3
    for share in (1.0, 0.6):
        (found,) = momentum.rollout_through(policy, x, raws_of(policy, share, share), SUBSTEPS)
        assert torch.equal(found, x)


@pytest.mark.parametrize(("apart", "beside"), [(2**30, 32), (32, 2**30)])
def test_offsets_beyond_what_32_bits_hold_are_reached(apart: int, beside: int) -> None:
    """The third sample, or the third position, lies 2^31 entries behind the first; of 4 GB a few pages are touched."""
    policy = on_device(cast(random_momentum(3, 3, 2, (3,)), torch.bfloat16))
    policy = replace(policy, x_src=policy.x_src.float())
    far = torch.empty(2**31 + 2**10, dtype=torch.bfloat16, device=DEVICE)
    view = far.as_strided(policy.means.shape, (apart, 8, 2, beside))
    view.copy_(policy.means)
    with torch.no_grad():
        found, wanted = (
            momentum.mean_velocity(one, one.x_src, raws_of(one, 0.9, 0.5), SUBSTEPS, 1.0)
            for one in (replace(policy, means=view), policy)
        )
    assert torch.equal(found, wanted)
