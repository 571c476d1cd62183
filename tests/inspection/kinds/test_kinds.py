"""Mixtures and curves of known make."""

from dataclasses import replace

import pytest
import torch
from helpers import random_gm
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.core.policies.dx import DXPolicy, DXPolynomialPolicy
from piflow_cli.inspection.entropy import dead_components, overall_effective
from piflow_cli.inspection.kinds.dx import curve
from piflow_cli.inspection.kinds.mixture import by_sample, mixed


def weighted(logweights: torch.Tensor):
    """A mixture with these log-weights (B, K, H, W)."""
    batch, components, height, width = logweights.shape
    return replace(random_gm(batch, components, 2, (height, width)), logweights=logweights.unsqueeze(2).double())


@given(st.integers(1, 12), st.floats(-5, 5))
def test_equal_components_all_count(components: int, level: float) -> None:
    policy = weighted(torch.full((2, components, 3, 2), level))
    found = mixed(policy)
    torch.testing.assert_close(found.effective, torch.full((2, 3, 2), float(components), dtype=torch.float64))
    assert overall_effective(by_sample(policy).usage) == pytest.approx(components)


@given(st.integers(1, 12), st.data())
def test_one_hot_weights_count_once(components: int, data: st.DataObject) -> None:
    chosen = data.draw(st.integers(0, components - 1))
    logweights = torch.full((2, components, 3, 2), -1e4)
    logweights[:, chosen] = 0
    policy = weighted(logweights)
    found = mixed(policy)
    torch.testing.assert_close(found.effective, torch.ones(2, 3, 2, dtype=torch.float64))
    numbers = by_sample(policy)
    assert overall_effective(numbers.usage) == pytest.approx(1)
    assert dead_components(numbers.highest) == [index for index in range(components) if index != chosen]


def test_components_that_share_out_the_positions_all_count_overall() -> None:
    logweights = torch.full((1, 4, 2, 2), -1e4)
    for index, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        logweights[0, index, row, column] = 0
    numbers = by_sample(weighted(logweights))
    assert numbers.effective.flatten().tolist() == pytest.approx([1, 1, 1])
    assert overall_effective(numbers.usage) == pytest.approx(4)


def test_a_component_with_weight_at_a_single_position_lives() -> None:
    weights = torch.full((2, 3, 4, 4), 0.005)
    weights[:, 0] = 0.99
    assert dead_components(by_sample(weighted(weights.log())).highest) == [1, 2]
    weights[1, 2, 3, 0] = 0.5
    assert dead_components(by_sample(weighted(weights.log())).highest) == [1]


@given(st.floats(-6, 1), st.floats(0.1, 1), st.floats(0.1, 1))
def test_a_width_is_that_of_x_0_whatever_the_temperature(logstd: float, raw: float, temperature: float) -> None:
    policy = replace(
        random_gm(raw_src=raw), logstds=torch.full((2,), logstd, dtype=torch.float64), temperature=temperature
    )
    found = mixed(policy)
    torch.testing.assert_close(found.std, policy.sigma_src * torch.tensor(logstd, dtype=torch.float64).exp())
    torch.testing.assert_close(found.weights, mixed(replace(policy, temperature=1.0)).weights)


def test_two_means_spread_by_half_their_distance() -> None:
    policy = random_gm(1, 2, 3, (2, 2), raw_src=0.8)
    means = torch.tensor([0.5, -1.5], dtype=torch.float64).reshape(1, 2, 1, 1, 1).expand(1, 2, 3, 2, 2)
    found = mixed(replace(policy, means=means, logweights=torch.zeros_like(policy.logweights)))
    torch.testing.assert_close(found.spread, torch.full((1, 2, 2), 0.8, dtype=torch.float64))


def polynomial(*coefficients: float, points: int | None = None) -> DXPolicy:
    """x_0 = sum of coefficients times (raw_src - raw)^i, as a polynomial or on a grid of ``points``."""
    x_src = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    raw_src = torch.full((2,), 0.9, dtype=torch.float64)
    wanted = torch.tensor(coefficients, dtype=torch.float64)
    if points is not None:
        elapsed = torch.linspace(0.4, 0, points, dtype=torch.float64)
        wanted = (elapsed.unsqueeze(1) ** torch.arange(len(coefficients))) @ wanted
    grid = (-wanted / 0.9).reshape(1, -1, 1, 1, 1).expand(2, -1, 1, 2, 2)
    kind = DXPolynomialPolicy if points is None else DXPolicy
    return kind(grid, x_src, raw_src, segment=0.4)


@pytest.mark.parametrize("points", [None, 3, 10])
def test_a_parabola_bends_evenly(points: int | None) -> None:
    found = curve(polynomial(0.3, -1.0, 2.0, points=points))
    torch.testing.assert_close(found.curvature, torch.full_like(found.curvature, 4.0))
    assert found.travel.tolist() == pytest.approx([abs(-1.0 * 0.4 + 2.0 * 0.4**2)] * 2)


@pytest.mark.parametrize("points", [None, 2, 10])
def test_a_line_does_not_bend(points: int | None) -> None:
    found = curve(polynomial(0.3, -1.5, points=points))
    torch.testing.assert_close(found.slope, torch.full_like(found.slope, 1.5))
    assert found.curvature.abs().sum() < 1e-9


@pytest.mark.parametrize("points", [None, 2, 10])
def test_a_segment_that_ends_at_raw_time_0_is_looked_at_no_further(points: int | None) -> None:
    policy = polynomial(0.3, -1.5, points=points)
    found, whole = curve(replace(policy, segment=1.4)), curve(replace(policy, segment=0.9))
    assert all(torch.equal(one, other) for one, other in zip(found, whole, strict=True))
    # All points of a grid move into the segment; a polynomial is the same function of time.
    rise = 1.5 * (0.4 / 0.9 if points is not None else 1.0)
    torch.testing.assert_close(found.slope, torch.full_like(found.slope, rise))


def test_a_single_point_stays() -> None:
    found = curve(polynomial(0.3, points=1))
    assert found.slope.shape == found.curvature.shape == (2, 0) and found.travel.tolist() == [0, 0]
