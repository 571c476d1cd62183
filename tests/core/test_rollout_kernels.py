"""Fused rollouts against the reference loop: the same numbers, gradients and errors, and better accuracy."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from helpers import random_momentum
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_cases import HARD_CASES, cast, dx_policy, gm_policy, hard_case, packed

from piflow_cli.core import kernels, reference
from piflow_cli.core.draws import draw_dropped
from piflow_cli.core.kernels import blocks, trial
from piflow_cli.core.policies.gmflow import GMFlowPolicy
from piflow_cli.core.rollout import mean_velocities, mean_velocity, rollout, rollout_through
from piflow_cli.core.validation import PolicyError

EXACT = {"rtol": 1e-9, "atol": 1e-9}
PARAMETERS = ("means", "logweights", "logstds")

shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.lists(st.integers(1, 4), max_size=3)).map(
    lambda drawn: (*drawn[:2], *drawn[2])
)


def descending(policy, fractions: list[float]) -> list[torch.Tensor]:
    """Raw times from the source down; the first sample stands still on the first leg, the last ends at the data."""
    raws = [policy.raw_src]
    for fraction in fractions:
        raw = raws[-1] * torch.linspace(1, fraction, len(policy.raw_src) + 1, dtype=torch.float64)[:-1]
        raws.append(raw)
    raws[-1] = raws[-1].clone()
    raws[-1][-1] = 0
    return raws


def trainable(policy: GMFlowPolicy) -> GMFlowPolicy:
    return replace(policy, **{name: getattr(policy, name).clone().requires_grad_() for name in PARAMETERS})


def gradients(
    function, policy: GMFlowPolicy, x: torch.Tensor, *times: torch.Tensor, substeps: int
) -> tuple[torch.Tensor, ...]:
    policy, x = trainable(policy), x.clone().requires_grad_()
    out = function(policy, x, *times, substeps=substeps)
    seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return torch.autograd.grad(out, [*(getattr(policy, name) for name in PARAMETERS), x], seed)


@given(shapes, st.integers(1, 9), st.sampled_from([1 << 19, 50, 5]), st.booleans(), st.sampled_from([1.0, 0.3]))
@settings(max_examples=40)
def test_states_of_any_shape_equal_the_reference(shape, components, block, drop, temperature) -> None:
    policy = replace(gm_policy(shape, components), temperature=temperature)
    if drop:
        policy = policy.without(draw_dropped(*policy.means.shape[:2], 0.5, torch.Generator().manual_seed(0)))
    raws = descending(policy, [0.5, 0.7])
    x = policy.x_src + 0.1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_ELEMENTS", block)
        fused = rollout_through(policy, x, raws, substeps=24)
    for state, wanted in zip(fused, reference.rollout_through(policy, x, raws, substeps=24), strict=True):
        torch.testing.assert_close(state, wanted, **EXACT)


@given(shapes, st.integers(1, 10), st.sampled_from([1 << 19, 20]), st.booleans(), st.sampled_from([1.0, 0.3]))
@settings(max_examples=25)
def test_gradients_of_any_shape_equal_autograd_through_the_reference(
    shape, components, block, drop, temperature
) -> None:
    policy = replace(gm_policy(shape, components), temperature=temperature)
    if drop:
        policy = policy.without(draw_dropped(*policy.means.shape[:2], 0.5, torch.Generator().manual_seed(0)))
    start, end = descending(policy, [0.8, 0.6])[1:]
    x = policy.x_src + 0.1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_ELEMENTS", block)
        for fused, plain in ((mean_velocity, reference.mean_velocity), (rollout, reference.rollout)):
            mine, wanted = (gradients(call, policy, x, start, end, substeps=12) for call in (fused, plain))
            for one, other in zip(mine, wanted, strict=True):
                torch.testing.assert_close(one, other, **EXACT)


def test_gradcheck_of_the_integral() -> None:
    policy = trainable(gm_policy((2, 2, 3), 3))
    end = policy.raw_src * torch.tensor([0.4, 0.98], dtype=torch.float64)

    def velocity(means, logweights, logstds, x):
        bound = replace(policy, means=means, logweights=logweights, logstds=logstds)
        return mean_velocity(bound, x, policy.raw_src, end, substeps=10)

    x = (policy.x_src + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(velocity, (policy.means, policy.logweights, policy.logstds, x))


@pytest.mark.parametrize("length", [0.0, 0.5 / 64, 1 / 64])
def test_an_interval_under_two_substeps_gives_the_local_velocity_and_its_gradient(length: float) -> None:
    policy = gm_policy((3, 2, 4), 4)
    start = policy.raw_src * 0.7
    local = gradients(lambda bound, x, raw, substeps: bound.velocity(x, raw), policy, policy.x_src, start, substeps=64)
    mean = gradients(mean_velocity, policy, policy.x_src, start, start - length, substeps=64)
    for one, other in zip(mean, local, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("case", HARD_CASES)
@pytest.mark.parametrize("call", ["rollout", "mean_velocity"])
def test_float32_is_at_most_twice_as_far_from_float64_as_the_reference(case: str, call: str) -> None:
    policy, start, end = hard_case(case)
    policy = cast(policy, torch.float32)
    exact = cast(policy, torch.float64)
    truth = getattr(reference, call)(exact, exact.x_src, start, end)
    fused = {"rollout": rollout, "mean_velocity": mean_velocity}[call](policy, policy.x_src, start, end)
    plain = getattr(reference, call)(policy, policy.x_src, start, end)
    floor = torch.finfo(torch.float32).eps * truth.abs().max().item()
    error, allowed = ((value - truth).abs().max().item() for value in (fused, plain))
    assert error <= 2 * allowed + floor


def test_a_rollout_of_length_zero_returns_the_state_bit_for_bit() -> None:
    policy = cast(gm_policy((3, 2, 5), 4), torch.float32)
    x = 3 * policy.x_src + 0.1
    assert torch.equal(rollout(policy, x, policy.raw_src, policy.raw_src), x)


def test_packed_tokens_and_their_strided_views_give_the_same_numbers() -> None:
    policy = gm_policy((2, 3, 6, 4), 5)
    view = packed(policy)
    assert not view.means.is_contiguous()
    end = policy.raw_src * 0.5
    torch.testing.assert_close(
        rollout(view, view.x_src, view.raw_src, end), rollout(policy, policy.x_src, policy.raw_src, end), **EXACT
    )
    for one, other in zip(
        gradients(mean_velocity, view, view.x_src, view.raw_src, end, substeps=8),
        gradients(mean_velocity, policy, policy.x_src, policy.raw_src, end, substeps=8),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **EXACT)


def test_bf16_parameters_get_bf16_gradients_and_float32_velocities_even_under_autocast() -> None:
    policy = cast(gm_policy((2, 3, 8), 4), torch.bfloat16)
    wide = cast(policy, torch.float32)
    end = policy.raw_src * 0.5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bound = trainable(policy)
        mean = mean_velocity(bound, bound.x_src, bound.raw_src, end)
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean, mean_velocity(wide, wide.x_src, wide.raw_src, end))
    mean.sum().backward()
    assert bound.means.grad.dtype == bound.logstds.grad.dtype == torch.bfloat16


def several(policy, count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States (count, B, C, *S) and raw times (count, B) of intervals from nothing to a quarter of the way."""
    draw = torch.Generator().manual_seed(3)
    x = policy.x_src + torch.randn((count, *policy.x_src.shape), generator=draw, dtype=torch.float64).to(policy.x_src)
    start = policy.raw_src * (0.9 - 0.2 * torch.rand((count, 1), generator=draw, dtype=torch.float64))
    return x, start, start * torch.linspace(1, 0.75, count, dtype=torch.float64).unsqueeze(1)


POLICIES = {
    "gm": lambda batch: gm_policy((batch, 3, 5, 4), 4),
    "gm without components": lambda batch: gm_policy((batch, 3, 5), 4).without(torch.eye(4)[:batch].bool()),
    "dx": lambda batch: dx_policy((batch, 3, 5), 4, False),
    "dx-poly": lambda batch: dx_policy((batch, 3, 5), 4, True),
    "momentum": lambda batch: random_momentum(batch, 4, 3, (5,), raw_src=0.9),
}


@pytest.mark.parametrize("kernels_are", ["on", "off"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", POLICIES)
def test_many_states_at_once_are_each_as_alone(monkeypatch, kind: str, batch: int, kernels_are: str) -> None:
    """The plain loop's velocities bit for bit; gradients are summed in another order.

    Blocks of a fused path end elsewhere, and the end of a vector has an exp() of its own.
    """
    monkeypatch.setenv("PIFLOW_KERNELS", kernels_are)
    policy = POLICIES[kind](batch)
    x, start, end = several(policy)
    leaves = {name: getattr(policy, name).clone().requires_grad_() for name in policy.outputs}
    bound = replace(policy, **leaves)
    together = mean_velocities(bound, x, start, end, substeps=24)
    alone = torch.stack([mean_velocity(bound, *one, substeps=24) for one in zip(x, start, end)])
    tolerance = 0 if kernels_are == "off" else 1e-14
    torch.testing.assert_close(together, alone, rtol=tolerance, atol=tolerance)
    pull = torch.randn(together.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for one, other in zip(*(torch.autograd.grad(out, list(leaves.values()), pull) for out in (together, alone))):
        torch.testing.assert_close(one, other, **EXACT)


def test_the_tensors_of_one_sample_are_repeated_without_a_copy() -> None:
    policy = gm_policy((1, 3, 5), 4)
    assert policy.repeated(4).means.untyped_storage().data_ptr() == policy.means.untyped_storage().data_ptr()


def test_states_that_are_not_stacked_are_refused() -> None:
    policy = gm_policy((2, 3, 5), 4)
    with pytest.raises(PolicyError, match="x: 3 axes where a stack of states has 4"):
        mean_velocities(policy, policy.x_src, policy.raw_src, policy.raw_src)


def test_a_source_that_wants_a_gradient_takes_the_reference() -> None:
    policy = gm_policy((2, 2, 3), 3)
    policy = replace(policy, x_src=policy.x_src.requires_grad_())
    rollout(policy, policy.x_src.detach(), policy.raw_src, policy.raw_src * 0.5).sum().backward()
    assert policy.x_src.grad.abs().sum() > 0


@given(shapes, st.integers(1, 7), st.booleans())
@settings(max_examples=40)
def test_dx_in_closed_form_equals_the_reference(shape, points, polynomial) -> None:
    policy = dx_policy(shape, points, polynomial)
    raws = descending(policy, [0.5, 0.7])
    x = policy.x_src + 0.1
    wanted = reference.rollout_through(policy, x, raws, substeps=24)
    for state, plain in zip(rollout_through(policy, x, raws, substeps=24), wanted, strict=True):
        torch.testing.assert_close(state, plain, **EXACT)
    for start, end in (raws[:2], raws[1:], (raws[1], raws[1] * 0.99)):
        fused, plain = (call(policy, x, start, end, substeps=24) for call in (mean_velocity, reference.mean_velocity))
        torch.testing.assert_close(fused, plain, **EXACT)


@pytest.mark.parametrize("polynomial", [False, True])
def test_dx_gradients_equal_autograd_through_the_reference(polynomial: bool) -> None:
    policy = dx_policy((2, 3, 4), 5, polynomial)
    end = policy.raw_src * 0.4
    pairs = []
    for call in (mean_velocity, reference.mean_velocity):
        bound = replace(policy, grid=policy.grid.clone().requires_grad_(), x_src=policy.x_src.clone().requires_grad_())
        call(bound, policy.x_src + 0.1, policy.raw_src, end).square().sum().backward()
        pairs.append((bound.grid.grad, bound.x_src.grad))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_a_dx_rollout_is_exact_where_x_0_is_constant() -> None:
    """With one x_0 for all times, Euler steps in sigma are exact: x moves on a straight line to it."""
    policy = dx_policy((2, 3, 4), 1, False)
    x = rollout(policy, policy.x_src, policy.raw_src, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(x, policy.estimates[:, 0], **EXACT)


def broken(**changes):
    return replace(gm_policy((2, 3, 4), 5), **changes)


@pytest.mark.parametrize(
    ("argument", "make"),
    [
        ("means", lambda: gm_policy((2, 3, 4), 0)),
        ("means", lambda: broken(means=torch.zeros(2, 3))),
        ("x_src", lambda: broken(x_src=torch.zeros(2, 3, 5))),
        ("logweights", lambda: broken(logweights=torch.zeros(2, 4, 1, 4))),
        ("logstds", lambda: broken(logstds=torch.zeros(3))),
        ("raw_src", lambda: broken(raw_src=torch.ones(1))),
        ("dropped", lambda: broken(dropped=torch.zeros(2, 4, dtype=torch.bool))),
        ("temperature", lambda: broken(temperature=0.0)),
        ("shift", lambda: broken(shift=-1.0)),
        ("grid", lambda: dx_policy((2, 3, 4), 0, False)),
        ("segment", lambda: replace(dx_policy((2, 3, 4), 2, False), segment=0.0)),
    ],
)
def test_an_impossible_policy_names_the_argument(argument: str, make) -> None:
    with pytest.raises(PolicyError) as caught:
        make()
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("x", {"x": torch.zeros(2, 3, 5)}),
        ("x", {"x": torch.full((2, 3, 4), torch.inf)}),
        ("raw_from", {"raw_from": torch.ones(3)}),
        ("raw_from", {"raw_from": torch.full((2,), 1.5)}),
        ("raw_to", {"raw_to": torch.full((2,), 0.9)}),
        ("raw_to", {"raw_to": torch.full((2,), torch.nan)}),
        ("raw_to", {"raw_to": torch.full((2,), -0.1)}),
        ("substeps", {"substeps": 0}),
    ],
)
def test_an_impossible_rollout_names_the_argument(argument: str, changes: dict) -> None:
    policy = broken(raw_src=torch.ones(2))
    given_ = {
        "x": policy.x_src,
        "raw_from": torch.full((2,), 0.8),
        "raw_to": torch.full((2,), 0.5),
        "substeps": 8,
        **changes,
    }
    for call in (rollout, mean_velocity):
        with pytest.raises(PolicyError) as caught:
            call(policy, given_["x"], given_["raw_from"], given_["raw_to"], substeps=given_["substeps"])
        assert caught.value.argument == argument


@pytest.mark.parametrize("call", [rollout, mean_velocity])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("argument", ["means", "logweights", "logstds", "x_src", "x", "grid"])
def test_values_that_are_not_finite_are_named(argument: str, value: float, call) -> None:
    """One value among many, in a sample that stands still while the others move."""
    policy = dx_policy((2, 3, 4), 5, False) if argument == "grid" else broken()
    x = policy.x_src.clone()
    changed = x if argument == "x" else getattr(policy, argument).clone()
    changed.view(-1)[-1] = value
    policy = policy if argument == "x" else replace(policy, **{argument: changed})
    end = policy.raw_src * torch.tensor([0.5, 1.0], dtype=torch.float64)
    with pytest.raises(PolicyError) as caught:
        call(policy, x, policy.raw_src, end)
    assert caught.value.argument == argument


def test_finite_values_whose_sum_overflows_are_no_fault_of_theirs() -> None:
    policy = cast(broken(), torch.float32)
    x = torch.full((2, 3, 4), 2e38)
    assert torch.equal(rollout(policy, x, policy.raw_src, policy.raw_src), x)


def test_the_off_switch_goes_back_to_the_reference_and_says_so_once(monkeypatch, caplog) -> None:
    policy = cast(gm_policy((2, 3, 4), 5), torch.float32)
    times = (policy.raw_src, policy.raw_src * 0.3)
    kernels._chosen.cache_clear()
    monkeypatch.setenv("PIFLOW_KERNELS", "off")
    with caplog.at_level(logging.INFO, logger="piflow.kernels"):
        plain = [rollout(policy, policy.x_src, *times) for _ in range(2)]
    assert [record.message for record in caplog.records] == ["rollouts on cpu: reference loop (PIFLOW_KERNELS=off)"]
    wanted = reference.rollout(policy, policy.x_src, *times)
    assert all(torch.equal(state, wanted) for state in plain)
    monkeypatch.delenv("PIFLOW_KERNELS")
    assert not torch.equal(rollout(policy, policy.x_src, *times), wanted)


def test_cuda_without_triton_warns_and_takes_the_reference(monkeypatch, caplog) -> None:
    kernels._chosen.cache_clear()
    monkeypatch.setattr(trial, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO, logger="piflow.kernels"):
        assert kernels.backend(torch.device("cuda")) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    kernels._chosen.cache_clear()
