"""Momentum policies: the closed form against the sum it is defined by, against fine Euler steps, and its limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers import random_momentum
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.core.policies.momentum import SERIES_BELOW, MomentumPolicy, phi
from piflow_cli.core.rollout import mean_velocity, rollout, rollout_through
from piflow_cli.core.timegrid import to_raw, to_sigma
from piflow_cli.core.validation import PolicyError


def one_position(
    loggammas: list[float], means: list[float], weights: list[float], source: float = 0.9, shift: float = 1.0
) -> MomentumPolicy:
    def shaped(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1, 1)

    x = torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    return MomentumPolicy(
        shaped(means), shaped(weights).log(), shaped(loggammas), x, torch.full((1,), source, dtype=torch.float64), shift
    )


def euler(policy: MomentumPolicy, end: torch.Tensor, steps: int) -> torch.Tensor:
    """``steps`` steps of equal sigma from the source to raw times ``end``."""
    sigma, last = policy.sigma_src, to_sigma(end, policy.shift)
    x, change = policy.x_src, (last - sigma) / steps
    for step in range(steps):
        x = x + change.reshape(-1, 1, 1, 1) * policy.velocity(x, to_raw(sigma + step * change, policy.shift))
    return x


def times(*raws: float) -> list[torch.Tensor]:
    return [torch.full((1,), raw, dtype=torch.float64) for raw in raws]


RATE = st.floats(-6, 3)


@given(RATE, RATE, st.floats(0, 0.9), st.floats(0.3, 4))
def test_the_velocity_is_the_sum_it_is_defined_by(first: float, second: float, raw: float, shift: float) -> None:
    """method.md: v(sigma) = sum_k w_k u_k gamma_k^(sigma_s - sigma), gamma_0 = 1."""
    policy = one_position([first, second], [1.0, -2.0, 3.0], [0.5, 0.3, 0.2], shift=shift)
    elapsed = to_sigma(0.9, shift) - to_sigma(raw, shift)
    expected = 0.5 - 2 * 0.3 * math.exp(first * elapsed) + 3 * 0.2 * math.exp(second * elapsed)
    assert policy.velocity(policy.x_src, *times(raw)).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(RATE, st.floats(0, 0.45), st.floats(0.45, 0.9), st.floats(0.3, 4))
def test_the_way_is_the_integral_of_an_exponential(rate: float, end: float, start: float, shift: float) -> None:
    """With one moving component of weight w the displacement is w u (gamma^(s - b) - gamma^(s
    - a)) / ln gamma, plus the constant one."""
    policy = one_position([rate], [1.0, 2.0], [0.25, 0.75], shift=shift)
    source, a, b = (to_sigma(raw, shift) for raw in (0.9, start, end))
    grown = math.exp(rate * (source - a)) * (a - b if abs(rate) < 1e-8 else math.expm1(rate * (a - b)) / rate)
    x = rollout(policy, policy.x_src, *times(start, end))
    assert x.item() == pytest.approx(0.5 - 0.25 * (a - b) - 1.5 * grown, rel=1e-8, abs=1e-8)


@given(st.integers(2, 6), st.floats(0.3, 4), st.floats(0, 0.8), st.integers(0, 99))
def test_fine_euler_steps_arrive_where_the_closed_form_does(
    components: int, shift: float, end: float, seed: int
) -> None:
    policy = random_momentum(components=components, shift=shift, seed=seed)
    to = torch.full((2,), end, dtype=torch.float64)
    exact = rollout(policy, policy.x_src, policy.raw_src, to)
    errors = [(euler(policy, to, steps) - exact).norm().item() for steps in (100, 200)]
    assert errors[1] < 1e-2 * (1 + exact.norm().item())
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)


@given(st.lists(st.floats(0, 0.9), min_size=3, max_size=3))
def test_a_way_in_two_legs_is_the_same_way(stops: list[float]) -> None:
    policy = random_momentum(shift=3.2)
    raws = [torch.full((2,), raw, dtype=torch.float64) for raw in sorted(stops, reverse=True)]
    x = policy.x_src
    torch.testing.assert_close(rollout_through(policy, x, raws)[-1], rollout(policy, x, raws[0], raws[-1]))


@given(st.floats(0, 0.9), st.floats(0.3, 4), st.integers(0, 9))
def test_the_mean_velocity_is_displacement_over_change_of_sigma(length: float, shift: float, seed: int) -> None:
    policy = random_momentum(shift=shift, seed=seed)
    start, end = policy.raw_src, policy.raw_src - length
    mean = mean_velocity(policy, policy.x_src, start, end)
    if length * 128 < 1.5:
        torch.testing.assert_close(mean, policy.velocity(policy.x_src, start))
    else:
        change = (to_sigma(end, shift) - to_sigma(start, shift)).reshape(-1, 1, 1, 1)
        torch.testing.assert_close(mean * change, rollout(policy, policy.x_src, start, end) - policy.x_src)


def test_rates_of_one_are_a_straight_way_at_the_mean_velocity() -> None:
    policy = random_momentum(shift=2.0)
    still = replace(policy, loggammas=torch.zeros_like(policy.loggammas))
    x = rollout(still, still.x_src, still.raw_src, torch.zeros_like(still.raw_src))
    expected = still.x_src - still.sigma_src.reshape(-1, 1, 1, 1) * (still.logweights.softmax(1) * still.means).sum(1)
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)  # sigma_src is kept off zero


def test_kernels_have_no_say(monkeypatch) -> None:
    policy = random_momentum()
    to = policy.raw_src * 0.2
    exact = rollout(policy, policy.x_src, policy.raw_src, to)
    monkeypatch.setenv("PIFLOW_KERNELS", "off")
    assert torch.equal(rollout(policy, policy.x_src, policy.raw_src, to, substeps=3), exact)


@pytest.mark.parametrize(
    "rate",
    [-20.0, -1.0, -SERIES_BELOW, -1e-3, -1e-12, 0.0, 1e-12, 1e-3, SERIES_BELOW * (1 - 1e-9), SERIES_BELOW, 1.0, 20.0],
)
def test_phi_and_its_derivatives(rate: float) -> None:
    """Against the power series in float64, summed from its smallest terms; e^z / z - phi / z where it has too many."""
    z = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
    value = phi(z)
    (slope,) = torch.autograd.grad(value, z)
    exact = math.expm1(rate) / rate if abs(rate) > 1e-6 else 1 + rate / 2
    derivative = (
        (math.exp(rate) - exact) / rate
        if abs(rate) > 0.2
        else sum(n * rate ** (n - 1) / math.factorial(n + 1) for n in range(20, 0, -1))
    )
    assert value.item() == pytest.approx(exact, rel=1e-12)
    assert slope.item() == pytest.approx(derivative, rel=1e-9)
    single = torch.tensor(rate, requires_grad=True)
    (slope,) = torch.autograd.grad(phi(single), single)
    assert slope.item() == pytest.approx(derivative, rel=2e-5)


@pytest.mark.parametrize("length", [0.0, 0.02, 0.3])
def test_gradients_match_finite_differences(length: float) -> None:
    policy = random_momentum(batch=1, components=3, channels=2, space=(2,))

    def mean(means, logweights, loggammas):
        moved = replace(policy, means=means, logweights=logweights, loggammas=loggammas)
        return mean_velocity(moved, policy.x_src, policy.raw_src * 0.9, policy.raw_src * 0.9 - length, substeps=32)

    leaves = [value.clone().requires_grad_() for value in (policy.means, policy.logweights, policy.loggammas)]
    assert torch.autograd.gradcheck(mean, leaves)


def test_dropped_components_leave_the_policy_of_the_others() -> None:
    policy = random_momentum(components=4)
    dropped = replace(policy, dropped=torch.tensor([[False, True, False, True]]).expand(2, 4))
    kept = replace(
        policy, means=policy.means[:, ::2], logweights=policy.logweights[:, ::2], loggammas=policy.loggammas[:, 1:2]
    )
    raw = policy.raw_src * 0.6
    torch.testing.assert_close(dropped.velocity(policy.x_src, raw), kept.velocity(policy.x_src, raw))
    assert policy.without(dropped.dropped).dropped is dropped.dropped


def test_values_that_are_not_finite_are_named() -> None:
    policy = random_momentum()
    broken = policy.loggammas.clone()
    broken[0, 0, 0, 0, 0] = math.inf
    with pytest.raises(PolicyError, match="loggammas: holds a value that is not finite"):
        rollout(replace(policy, loggammas=broken), policy.x_src, policy.raw_src, policy.raw_src * 0.5)


def test_rates_for_every_component_but_the_first() -> None:
    policy = random_momentum(components=3)
    with pytest.raises(PolicyError, match=r"loggammas: shape \(2, 3, 1, 3, 2\) where \(2, 2, 1, 3, 2\) is needed"):
        replace(policy, loggammas=torch.zeros(2, 3, 1, 3, 2))
