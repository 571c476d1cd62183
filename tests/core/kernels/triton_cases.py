"""The Triton kernels against their PyTorch twins; run by test_gm_triton.py in a process of its own.

On a machine with a GPU they run on it, elsewhere in Triton's interpreter, which takes numbers handed to a kernel as
float32: shift and temperature are such that this loses nothing.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_cases import DEVICE, EXACT, HARD_CASES, cast, dx_policy, gm_policy, hard_case, on_device, packed

from piflow_cli.core import reference
from piflow_cli.core.draws import draw_dropped
from piflow_cli.core.kernels import dx, dx_triton, gm, gm_cpu, gm_triton
from piflow_cli.core.kernels.layout import collapsible
from piflow_cli.core.policies.gmflow import GMFlowPolicy


def states(backend, policy, x, raws, substeps):
    return backend.states(policy, x, backend.coefficient_table(policy, raws, substeps, averaged=False))


def integral_and_gradients(backend, policy, x, raws, substeps, averaged=True):
    table = backend.coefficient_table(policy, raws, substeps, averaged=averaged)
    seed = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype).to(x.device)
    return (backend.integral(policy, x, table)[0], *backend.integral_backward(policy, x, table, seed))


def assert_backends_agree(policy: GMFlowPolicy, substeps: int = 10, **tolerance) -> None:
    """Both backends on one policy: states of two legs, one of length zero for a sample, and a mean with gradients."""
    start = policy.raw_src * 0.9
    middle = start * torch.linspace(1, 0.5, len(start), dtype=torch.float64)
    raws = [start, middle, middle * 0.3]
    x = policy.x_src + 0.1
    there, raws_there = on_device(policy), [raw.to(DEVICE) for raw in raws]
    pairs = [
        (states(gm_triton, there, x.to(DEVICE), raws_there, substeps), states(gm_cpu, policy, x, raws, substeps)),
        *zip(
            integral_and_gradients(gm_triton, there, x.to(DEVICE), raws_there[:2], substeps),
            integral_and_gradients(gm_cpu, policy, x, raws[:2], substeps),
            strict=True,
        ),
    ]
    for one, other in pairs:
        torch.testing.assert_close(one.cpu(), other, **(tolerance or EXACT))


@given(
    st.tuples(st.integers(1, 2), st.integers(1, 5), st.lists(st.integers(1, 4), max_size=4)),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from([1.0, 0.5]),
)
@settings(max_examples=6)
def test_any_shape_equals_the_twin_in_float64(drawn, components, drop, temperature) -> None:
    batch, channels, space = drawn
    policy = replace(gm_policy((batch, channels, *space), components), temperature=temperature)
    if drop:
        policy = policy.without(draw_dropped(*policy.means.shape[:2], 0.5, torch.Generator().manual_seed(0)))
    assert_backends_agree(policy, 6)


@pytest.mark.parametrize(("components", "channels"), [(8, 16), (32, 4), (16, 16), (8, 32), (64, 128)])
def test_the_sizes_of_the_presets_equal_the_twin_in_float64(components: int, channels: int) -> None:
    assert_backends_agree(gm_policy((1, channels, 3), components), 4)


@pytest.mark.parametrize(("components", "channels"), [(40, 3), (5, 40), (9, 33)])
def test_video_of_sizes_that_lanes_do_not_divide_equals_the_twin_in_float64(components: int, channels: int) -> None:
    """A thread, and a few lanes of a warp, hold a position together; some of them have a component or channel less."""
    policy = gm_policy((2, channels, 2, 2, 3), components)
    assert_backends_agree(replace(policy, dropped=(torch.arange(components) % 3 == 1).expand(2, -1)), 4)


@pytest.mark.parametrize(("components", "channels"), [(2, 3), (32, 16)])
def test_a_rollout_of_length_zero_returns_the_state_bit_for_bit(components: int, channels: int) -> None:
    policy = cast(gm_policy((2, channels, 5), components), torch.float32)
    x = policy.x_src * 1.1 + 1e-3
    found = states(gm_triton, on_device(policy), x.to(DEVICE), [policy.raw_src.to(DEVICE)] * 2, 8)
    assert torch.equal(found[0].cpu(), x)


@pytest.mark.parametrize(("apart", "beside"), [(2**30, 32), (32, 2**30)])
def test_offsets_beyond_what_32_bits_hold_are_reached(apart: int, beside: int) -> None:
    """The third sample, or the third position, lies 2^31 entries behind the first; of 4 GB a few pages are touched."""
    policy = cast(gm_policy((3, 2, 3), 3), torch.bfloat16)
    policy = replace(policy, x_src=policy.x_src.float())
    far = torch.empty(2**31 + 2**10, dtype=torch.bfloat16, device=DEVICE)
    views = [part.as_strided((3, 3, each, 3), (apart, 8, 2, beside)) for part, each in ((far, 2), (far[512:], 1))]
    for view, value in zip(views, (policy.means, policy.logweights)):
        view.copy_(value)
    there, raws = on_device(policy), [policy.raw_src.to(DEVICE), policy.raw_src.to(DEVICE) * 0.5]
    found, wanted = (
        integral_and_gradients(gm_triton, one, one.x_src + 0.1, raws, 4)
        for one in (replace(there, means=views[0], logweights=views[1]), there)
    )
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_packed_tokens_are_read_where_they_lie() -> None:
    policy = packed(gm_policy((2, 3, 6, 4), 5))
    shared = policy.means.untyped_storage().data_ptr()
    assert policy.logweights.untyped_storage().data_ptr() == shared
    assert_backends_agree(policy)


@pytest.mark.parametrize("axes", [(0, 1, 3, 4, 2), (0, 3, 2, 1, 4), (4, 3, 2, 1, 0)])
def test_any_strides_are_read_where_they_lie(axes: tuple[int, ...]) -> None:
    policy = gm_policy((2, 3, 2, 3), 3)
    means = policy.means.permute(axes).contiguous()
    back = [axes.index(axis) for axis in range(5)]
    assert_backends_agree(replace(policy, means=means.permute(back)))


def test_one_sample_repeated_without_a_copy_is_read_where_it_lies() -> None:
    """As the states of a segment read it; every state has gradients of its own."""
    policy = gm_policy((1, 3, 5), 4).repeated(3)
    assert policy.means.stride(0) == 0
    assert_backends_agree(policy)


def test_tokens_of_videos_are_read_where_they_lie() -> None:
    """Positions of a token beside each other, frames, rows and columns apart: four axes of space, of two strides."""
    policy = gm_policy((1, 2, 4, 2, 3, 2), 2)
    tokens = policy.means.movedim((1, 2, 3), (-3, -2, -1)).contiguous()
    means = tokens.movedim((-3, -2, -1), (1, 2, 3))
    assert collapsible([means], (3,)) and not means.is_contiguous()
    assert_backends_agree(replace(policy, means=means), 4)


def test_more_than_three_strided_axes_of_space_are_copied() -> None:
    policy = gm_policy((1, 2, 2, 3, 2, 2), 2)
    means = policy.means.permute(0, 1, 2, 6, 4, 5, 3).contiguous().permute(0, 1, 2, 6, 4, 5, 3)
    assert_backends_agree(replace(policy, means=means), 4)


def test_parameters_in_bf16_are_read_as_they_are() -> None:
    policy = cast(gm_policy((2, 3, 5), 4), torch.bfloat16)
    policy = replace(policy, x_src=policy.x_src.float())
    assert_backends_agree(policy, rtol=2e-2, atol=1e-3)
    wide = cast(policy, torch.float32)
    raws = [policy.raw_src, policy.raw_src * 0.5]
    narrow, exact = (
        states(gm_triton, on_device(p), p.x_src.to(DEVICE), [r.to(DEVICE) for r in raws], 10) for p in (policy, wide)
    )
    torch.testing.assert_close(narrow, exact)


@pytest.mark.parametrize("case", HARD_CASES)
def test_float32_is_at_most_twice_as_far_from_float64_as_the_reference(case: str) -> None:
    policy, start, end = hard_case(case, batch=1)
    policy = cast(replace(policy, shift=3.25), torch.float32)
    exact = cast(policy, torch.float64)
    there, raws = on_device(policy), [start.to(DEVICE), end.to(DEVICE)]
    for averaged, call in ((False, reference.rollout), (True, reference.mean_velocity)):
        truth = call(exact, exact.x_src, start, end)
        table = gm_triton.coefficient_table(there, raws, 128, averaged=averaged)
        if averaged:
            fused, _ = gm_triton.integral(there, there.x_src, table)
        else:
            fused = gm_triton.states(there, there.x_src, table)
        fused = fused.cpu().reshape(truth.shape)
        plain = call(policy, policy.x_src, start, end)
        floor = torch.finfo(torch.float32).eps * truth.abs().max().item()
        error, allowed = ((value - truth).abs().max().item() for value in (fused, plain))
        assert error <= 2 * allowed + floor


@pytest.mark.parametrize("averaged", [False, True])
def test_the_table_equals_the_one_on_the_host(averaged: bool) -> None:
    """Substeps per unit and lengths where round() meets exact halves, and legs of length zero."""
    policy = gm_policy((5, 1, 1), 2, raw_src=1.0)
    start = torch.ones(5, dtype=torch.float64)
    end = 1 - torch.tensor([0.0, 0.5, 1.5, 2.5, 100.0], dtype=torch.float64) / 128
    raws = [start, end] if averaged else [start, end, end * 0.5, end * 0.5]
    wanted = gm_cpu.coefficient_table(policy, raws, 128, averaged=averaged)
    table = gm_triton.coefficient_table(on_device(policy), [raw.to(DEVICE) for raw in raws], 128, averaged=averaged)
    assert table.ends.tolist() == wanted.ends.tolist()
    for sample, count in enumerate(wanted.ends[:, -1].tolist()):
        torch.testing.assert_close(
            table.scalars[sample, :count].cpu(), torch.stack(wanted.scalars, 2)[sample, :count], rtol=1e-12, atol=1e-12
        )


def test_autograd_goes_through_the_kernels() -> None:
    policy = on_device(gm_policy((2, 2, 3), 3))
    raws = [policy.raw_src, policy.raw_src * 0.5]
    found = []
    for backend_or_none in (gm_triton, None):
        bound = replace(policy, means=policy.means.clone().requires_grad_())
        if backend_or_none is None:
            out = reference.mean_velocity(bound, policy.x_src, *raws, substeps=8)
        else:
            out = gm.mean_velocity(bound, policy.x_src, raws, 8, longest=0.5, backend=backend_or_none)
        out.square().sum().backward()
        found.append((out.detach(), bound.means.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_a_known_bound_on_the_length_narrows_the_table_and_changes_nothing() -> None:
    policy = on_device(gm_policy((2, 2, 3), 3))
    raws = [policy.raw_src, policy.raw_src - 3 / 128]
    wide, narrow = (
        gm_triton.coefficient_table(policy, raws, 128, averaged=True, longest=longest) for longest in (1.0, 3 / 128)
    )
    assert (wide.scalars.shape[1], narrow.scalars.shape[1]) == (129, 4)
    found = [
        (
            gm_triton.integral(policy, policy.x_src, p)[0],
            *gm_triton.integral_backward(policy, policy.x_src, p, policy.x_src),
        )
        for p in (wide, narrow)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@given(st.integers(1, 3), st.integers(1, 6), st.booleans(), st.sampled_from([1, 8, 30]))
@settings(max_examples=12)
def test_the_map_of_a_dx_rollout_equals_the_one_on_the_host(batch, points, polynomial, substeps) -> None:
    """Legs of many substeps, of half a one and of length zero; on the grid, beside it, and as a polynomial.

    Some sources are nearer to raw time 0 than the segment is long, which then ends there.
    """
    policy = replace(dx_policy((batch, 1, 2), points, polynomial), segment=0.375)
    policy = replace(policy, raw_src=torch.linspace(1, 0.2, batch, dtype=torch.float64))
    middle = policy.raw_src * torch.linspace(1, 0.5, batch, dtype=torch.float64)
    ends = middle * 0.3
    cases = [([policy.raw_src, middle, middle, ends], False)]
    cases += [([middle, end], True) for end in (ends, middle, middle - 0.5 / substeps * middle)]
    there = on_device(policy)
    for raws, averaged in cases:
        wanted = dx.linear_map(policy, raws, substeps, averaged=averaged)
        found = dx_triton.linear_map(there, [raw.to(DEVICE) for raw in raws], substeps, averaged=averaged)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=1e-10, atol=1e-10)


@given(st.integers(1, 2), st.lists(st.integers(1, 4), max_size=4), st.integers(1, 5), st.booleans(), st.booleans())
@settings(max_examples=12)
def test_a_dx_rollout_and_its_gradients_equal_those_on_the_host(batch, space, points, polynomial, averaged) -> None:
    """Of the grid, of the state and of the source; legs of a rollout together, or one mean velocity."""
    policy = replace(dx_policy((batch, 3, *space), points, polynomial), segment=0.375)
    middle = policy.raw_src * 0.7
    raws = [policy.raw_src * 0.9, middle] if averaged else [policy.raw_src * 0.9, middle, middle, middle * 0.5]
    x = policy.x_src + 0.1
    found = [dx_outcome(on_device(policy), x.to(DEVICE), [raw.to(DEVICE) for raw in raws], averaged, dx_triton)]
    found.append(dx_outcome(policy, x, raws, averaged, None))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.cpu(), other, **EXACT)


def dx_outcome(policy, x, raws, averaged, kernels):
    """States or mean velocity (legs, B, C, *S), and the gradients of an inner product with them."""
    policy = replace(policy, grid=policy.grid.requires_grad_(), x_src=policy.x_src.requires_grad_())
    x = x.detach().requires_grad_()
    if kernels is not None:
        out = kernels.applied(policy, x, kernels.linear_map(policy, raws, 8, averaged=averaged), added=not averaged)
    elif averaged:
        out = reference.mean_velocity(policy, x, *raws, substeps=8).unsqueeze(0)
    else:
        out = torch.stack(reference.rollout_through(policy, x, raws, substeps=8))
    seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype).to(out.device)
    return out.detach(), *torch.autograd.grad((out * seed).sum(), (policy.grid, x, policy.x_src))


def test_a_dx_grid_in_bf16_is_read_where_it_lies_and_its_gradient_lies_there_too() -> None:
    """As tokens hold it: channels and positions of a patch first, then tokens."""
    exact = cast(dx_policy((2, 3, 6, 4), 5, False), torch.float32)
    grid = exact.grid.to(torch.bfloat16).permute(0, 3, 1, 2, 4).contiguous().permute(0, 2, 3, 1, 4)
    there = on_device(replace(exact, grid=grid))
    there = replace(there, grid=there.grid.requires_grad_())
    raws = [there.raw_src, there.raw_src * 0.5]
    out = dx_triton.applied(there, there.x_src, dx_triton.linear_map(there, raws, 8, averaged=True), added=False)[0]
    wide = replace(exact, grid=grid.float())
    wanted = dx.mean_velocity(wide, wide.x_src, [raw.cpu() for raw in raws], 8, 1.0)
    torch.testing.assert_close(out.cpu(), wanted)
    (gradient,) = torch.autograd.grad(out.sum(), there.grid)
    assert (gradient.dtype, gradient.stride()) == (torch.bfloat16, grid.stride())


def test_one_grid_repeated_without_a_copy_is_read_where_it_lies() -> None:
    policy = replace(dx_policy((1, 3, 5), 4, False), segment=0.375).repeated(3)
    raws = [policy.raw_src * 0.9, policy.raw_src * torch.linspace(0.9, 0.5, 3, dtype=torch.float64)]
    assert policy.grid.stride(0) == 0
    x = torch.randn(policy.x_src.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = dx_outcome(on_device(policy), x.to(DEVICE), [raw.to(DEVICE) for raw in raws], True, dx_triton)
    for one, other in zip(found, dx_outcome(policy, x, raws, True, None), strict=True):
        torch.testing.assert_close(one.cpu(), other, **EXACT)


def test_a_dx_rollout_of_length_zero_returns_the_state_bit_for_bit() -> None:
    policy = on_device(cast(dx_policy((2, 3, 5), 4, True), torch.float32))
    x = policy.x_src * 1.1 + 1e-3
    maps = dx_triton.linear_map(policy, [policy.raw_src, policy.raw_src], 8, averaged=False)
    assert torch.equal(dx_triton.applied(policy, x, maps, added=True)[0], x)
