"""Velocities of policies: published numbers, exact flows and closed forms."""

from dataclasses import replace

import pytest
import torch
from helpers import MixtureFlow, close, golden, golden_dx, golden_gm, random_dx, random_gm, seeded
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.core.draws import draw_dropped
from piflow_cli.core.policies.gmflow import GMFlowPolicy
from piflow_cli.core.timegrid import to_raw, to_sigma


def test_gm_velocity_at_the_source_equals_the_published_one() -> None:
    numbers = golden("policies.safetensors")
    close(golden_gm().velocity(numbers["x_src"], numbers["raw_src"]), numbers["gm.velocity_at_src"])


@pytest.mark.parametrize("query", range(3))
@pytest.mark.parametrize(("temperature", "suffix"), [(1.0, ""), (0.3, "_T0.3")])
def test_gm_velocity_equals_the_published_one(query: int, temperature: float, suffix: str) -> None:
    numbers = golden("policies.safetensors")
    x, raw = (numbers[f"gm.query{query}.{name}"] for name in ("x", "raw"))
    close(golden_gm().with_temperature(temperature).velocity(x, raw), numbers[f"gm.query{query}.velocity{suffix}"])


@pytest.mark.parametrize("mode", ["grid", "polynomial"])
@pytest.mark.parametrize("query", range(2))
def test_dx_velocity_equals_the_published_one(mode: str, query: int) -> None:
    numbers = golden("policies.safetensors")
    x, raw = (numbers[f"dx.{mode}.query{query}.{name}"] for name in ("x", "raw"))
    close(golden_dx(mode).velocity(x, raw), numbers[f"dx.{mode}.query{query}.velocity"])


@given(
    st.floats(0.05, 1),
    st.floats(0.02, 1),
    st.floats(0.02, 0.8),
    st.integers(1, 5),
    st.integers(1, 3),
    st.floats(0.3, 4),
    st.integers(0, 99),
)
def test_the_policy_of_the_data_distribution_has_its_exact_velocity(
    source: float, share: float, std: float, components: int, channels: int, shift: float, seed: int
) -> None:
    """If the mixture is q(x_0 | x_src), the policy knows the flow everywhere
    below: at states no rollout would visit too."""
    generator = seeded(seed)
    means = torch.randn(components, channels, generator=generator, dtype=torch.float64)
    flow = MixtureFlow(means, torch.rand(components, generator=generator).double().add(0.1).softmax(0), std)
    x_src = torch.randn(2, channels, 3, generator=generator, dtype=torch.float64)
    sigma_src = torch.full((2,), source, dtype=torch.float64)
    sigma = sigma_src * share
    x = torch.randn(2, channels, 3, generator=generator, dtype=torch.float64)
    policy = flow.policy(x_src, sigma_src, shift)
    torch.testing.assert_close(policy.velocity(x, to_raw(sigma, shift)), flow.velocity(x, sigma), rtol=1e-5, atol=1e-6)


@given(st.floats(0.1, 1), st.floats(0.05, 0.999), st.integers(0, 99))
def test_one_component_is_gaussian_conditioning(source: float, share: float, seed: int) -> None:
    """K = 1: the posterior mean is the precision-weighted mean of the prior and the likelihood ratio."""
    policy = random_gm(components=1, raw_src=source, seed=seed)
    sigma = policy.sigma_src * share
    x = torch.randn(policy.x_src.shape, generator=seeded(seed + 1), dtype=torch.float64)
    mean, _, variance = policy.mixture
    shaped = [value.reshape(-1, 1, 1, 1) for value in (variance, sigma, policy.sigma_src)]
    variance, sigma_now, sigma_src = shaped
    precision = 1 / variance + ((1 - sigma_now) / sigma_now) ** 2 - ((1 - sigma_src) / sigma_src) ** 2
    weighted = (
        mean[:, 0] / variance + (1 - sigma_now) / sigma_now**2 * x - (1 - sigma_src) / sigma_src**2 * policy.x_src
    )
    torch.testing.assert_close(policy.posterior_mean(x, sigma), weighted / precision, rtol=1e-8, atol=1e-8)


def test_at_the_source_the_velocity_is_the_weighted_mean_of_the_predicted_ones() -> None:
    policy = random_gm()
    expected = (policy.logweights.softmax(1) * policy.means).sum(1)
    torch.testing.assert_close(policy.velocity(policy.x_src, policy.raw_src), expected)


@given(st.permutations(range(4)))
def test_components_have_no_order(order: list[int]) -> None:
    policy = random_gm(components=4)
    shuffled = replace(policy, means=policy.means[:, order], logweights=policy.logweights[:, order])
    x, raw = policy.x_src + 0.1, policy.raw_src * 0.6
    torch.testing.assert_close(shuffled.velocity(x, raw), policy.velocity(x, raw))


def test_temperature_sharpens_weights_and_narrows_components() -> None:
    policy = random_gm()
    cold = policy.with_temperature(0.25)
    torch.testing.assert_close(cold.mixture.logweights, (policy.mixture.logweights / 0.25).log_softmax(1))
    torch.testing.assert_close(cold.mixture.variance, policy.mixture.variance * 0.25)


def test_dropped_components_leave_the_policy_of_the_others() -> None:
    policy = random_gm(components=4)
    dropped = replace(policy, dropped=torch.tensor([[False, True, False, True]]).expand(2, 4))
    kept = replace(policy, means=policy.means[:, ::2], logweights=policy.logweights[:, ::2])
    x, raw = policy.x_src + 0.1, policy.raw_src * 0.6
    torch.testing.assert_close(dropped.velocity(x, raw), kept.velocity(x, raw))


def test_dropout_is_per_component_at_its_rate_and_never_total() -> None:
    dropped = draw_dropped(4000, 2, 0.5, seeded())
    assert not dropped.all(1).any()
    # Of four equally likely masks the one that drops both becomes the one that keeps both.
    assert dropped.double().mean().item() == pytest.approx(0.25, abs=0.02)
    assert draw_dropped(4000, 2, 0.0) is None


@pytest.mark.parametrize("point", range(4))
def test_the_dx_grid_gives_back_its_points(point: int) -> None:
    policy = random_dx(points=4, raw_src=0.8, segment=0.6)
    raw = torch.full((2,), 0.2 + 0.2 * point, dtype=torch.float64)
    torch.testing.assert_close(policy.posterior_mean(policy.x_src, raw), policy.estimates[:, point])


def test_the_dx_grid_is_linear_between_points_and_constant_outside() -> None:
    policy = random_dx(points=3, raw_src=0.9, segment=0.5)
    middle = policy.posterior_mean(policy.x_src, torch.full((2,), 0.9 - 0.125, dtype=torch.float64))
    torch.testing.assert_close(middle, (policy.estimates[:, 1] + policy.estimates[:, 2]) / 2)
    below = policy.posterior_mean(policy.x_src, torch.full((2,), 0.1, dtype=torch.float64))
    torch.testing.assert_close(below, policy.estimates[:, 0])


@pytest.mark.parametrize("point", range(4))
def test_a_dx_segment_that_would_end_below_zero_has_all_its_points_above(point: int) -> None:
    policy = random_dx(points=4, raw_src=0.3, segment=0.6)
    raw = torch.full((2,), 0.1 * point, dtype=torch.float64)
    torch.testing.assert_close(policy.posterior_mean(policy.x_src, raw), policy.estimates[:, point])


@given(st.floats(0, 0.9))
def test_the_dx_polynomial_is_one(raw: float) -> None:
    policy = random_dx(points=3, raw_src=0.9, polynomial=True)
    elapsed = 0.9 - raw
    expected = sum(policy.estimates[:, power] * elapsed**power for power in range(3))
    time = torch.full((2,), raw, dtype=torch.float64)
    torch.testing.assert_close(policy.posterior_mean(policy.x_src, time), expected)


@pytest.mark.parametrize("policy", [random_gm(shift=3.2), random_dx(shift=3.2)])
def test_velocity_and_expected_data_agree(policy) -> None:
    raw = policy.raw_src * 0.7
    x = policy.x_src * 1.1
    sigma = to_sigma(raw, 3.2).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(x - sigma * policy.velocity(x, raw), policy.posterior_mean(x, raw))


@pytest.mark.parametrize("policy", [random_gm(), random_dx()])
def test_a_detached_policy_is_equal_and_takes_no_gradient(policy) -> None:
    leaf = (policy.means if isinstance(policy, GMFlowPolicy) else policy.grid).requires_grad_()
    cut = policy.detach()
    x, raw = policy.x_src, policy.raw_src * 0.5
    assert policy.velocity(x, raw).requires_grad and leaf.requires_grad
    assert not cut.velocity(x, raw).requires_grad
    torch.testing.assert_close(cut.velocity(x, raw), policy.velocity(x, raw).detach(), rtol=0, atol=0)


def test_half_precision_parameters_are_computed_in_float32() -> None:
    policy = random_gm(dtype=torch.bfloat16)
    assert policy.velocity(policy.x_src, policy.raw_src).dtype == torch.float32
