import numpy as np
import pytest
import torch
from helpers import seeded
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.errors import RunError, UsageError
from piflow_cli.evaluation.extractors.moments import MomentAccumulator, Moments, moments, moments_of_arrays
from piflow_cli.evaluation.metrics.frechet import frechet_distance


def gaussian(seed: int, dimension: int, rank: int) -> Moments:
    factor = torch.randn(dimension, rank, generator=seeded(seed), dtype=torch.float64)
    return Moments(torch.randn(dimension, generator=seeded(seed + 1), dtype=torch.float64), factor @ factor.T)


def test_moments_of_a_handful_of_points() -> None:
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])
    mean, covariance = moments(points)
    torch.testing.assert_close(mean, torch.tensor([1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(covariance, torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64))


def test_gaussians_that_share_their_axes_have_a_closed_form() -> None:
    """Commuting covariances: |m1 - m2|^2 plus the squared differences of the standard deviations."""
    axes = torch.linalg.qr(torch.randn(5, 5, generator=seeded(), dtype=torch.float64)).Q
    one, two = torch.tensor([[1.0, 2.0, 0.5, 0.0, 3.0], [4.0, 0.1, 0.5, 2.0, 0.0]], dtype=torch.float64)
    means = torch.randn(2, 5, generator=seeded(1), dtype=torch.float64)
    expected = (means[0] - means[1]).square().sum() + (one - two).square().sum()
    parts = [Moments(mean, axes @ torch.diag(spread**2) @ axes.T) for mean, spread in zip(means, (one, two))]
    assert frechet_distance(*parts) == pytest.approx(expected.item(), abs=1e-6)


def test_two_by_two_covariances_have_a_closed_form() -> None:
    """tr (C1 C2)^(1/2) = sqrt(tr(C1 C2) + 2 sqrt(det C1 det C2)) in two dimensions."""
    one, two = gaussian(3, 2, 2), gaussian(8, 2, 2)
    product = one.covariance @ two.covariance
    root = (product.trace() + 2 * (one.covariance.det() * two.covariance.det()).sqrt()).sqrt()
    expected = (one.mean - two.mean).square().sum() + one.covariance.trace() + two.covariance.trace() - 2 * root
    assert frechet_distance(one, two) == pytest.approx(expected.item(), abs=1e-6)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_it_is_a_distance_whatever_the_rank(dimension: int, rank: int, other_rank: int, seed: int) -> None:
    one, two = gaussian(seed, dimension, rank), gaussian(seed + 50, dimension, other_rank)
    distance = frechet_distance(one, two)
    assert distance >= 0
    assert distance == pytest.approx(frechet_distance(two, one), rel=1e-6, abs=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    moved = one._replace(mean=one.mean + 1)
    assert frechet_distance(one, moved) == pytest.approx(dimension, rel=1e-6)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_fewer_samples_than_features_have_a_closed_form(count: int) -> None:
    """Against the same samples moved and stretched by s: |shift|^2 + (1 - s)^2 tr C, whatever the rank."""
    points = torch.randn(count, 40, generator=seeded(count), dtype=torch.float64)
    shift = torch.randn(40, generator=seeded(1), dtype=torch.float64)
    mean, covariance = moments(points)
    other = moments((points - mean) * 1.7 + mean + shift)
    expected = shift.square().sum() + 0.7**2 * covariance.trace()
    assert frechet_distance(Moments(mean, covariance), other) == pytest.approx(expected.item(), abs=1e-6)


def test_the_distance_to_a_point_mass_is_the_spread_around_it() -> None:
    one = gaussian(2, 7, 3)
    point = Moments(torch.zeros(7, dtype=torch.float64), torch.zeros(7, 7, dtype=torch.float64))
    expected = one.mean.square().sum() + one.covariance.trace()
    assert frechet_distance(one, point) == pytest.approx(expected.item(), abs=1e-6)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 99))
def test_moments_in_batches_are_the_moments_of_all(sizes: list[int], seed: int) -> None:
    """In any batches and any order; far from the origin, where sums of squares lose all digits."""
    parts = [
        1e6 + torch.randn(size, 5, generator=seeded(seed + i), dtype=torch.float64)
        for i, size in enumerate([*sizes, 2])
    ]
    everything = torch.cat(parts)
    expected = Moments(everything.mean(dim=0), torch.cov(everything.T))
    forwards, backwards = MomentAccumulator(), MomentAccumulator()
    for one, other in zip(parts, reversed(parts)):
        forwards.add(one)
        backwards.add(other)
    for found in (forwards, backwards):
        assert found.count == len(everything)
        torch.testing.assert_close(found.moments().mean, expected.mean, rtol=1e-14, atol=0)
        torch.testing.assert_close(found.moments().covariance, expected.covariance, rtol=0, atol=1e-7)


def test_an_accumulator_holds_two_arrays_however_much_it_has_seen() -> None:
    accumulator = MomentAccumulator()
    for _ in range(50):
        accumulator.add(torch.randn(100, 3, generator=seeded()))
    held = [value for value in vars(accumulator).values() if isinstance(value, torch.Tensor)]
    assert sum(value.numel() for value in held) == 3 + 9 and len(vars(accumulator)) == 3


def test_what_is_taken_out_does_not_change_with_what_comes_later() -> None:
    accumulator = MomentAccumulator()
    accumulator.add(torch.tensor([[0.0], [2.0]]))
    early = accumulator.moments()
    accumulator.add(torch.tensor([[100.0]]))
    assert early.mean.item() == 1 and early.covariance.item() == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    features = torch.zeros(4, 3)
    features[2, 1] = value
    with pytest.raises(RunError, match="not finite"):
        MomentAccumulator().add(features)
    zero = Moments(torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64))
    with pytest.raises(RunError, match="mean of the features is not finite"):
        frechet_distance(zero._replace(mean=features[2].double()), zero)
    with pytest.raises(RunError, match="covariance of the features is not finite"):
        frechet_distance(zero, zero._replace(covariance=torch.diag(features[2].double())))


@pytest.mark.parametrize("count", [0, 1])
def test_one_sample_has_no_covariance(count: int) -> None:
    with pytest.raises(RunError, match=f"{count} features have no covariance"):
        moments(torch.zeros(count, 3))


def test_a_covariance_whose_root_is_complex_is_refused() -> None:
    fine = Moments(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    with pytest.raises(RunError, match="root is complex"):
        frechet_distance(fine, fine._replace(covariance=torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64))))


def test_complex_and_misshapen_arrays_are_refused() -> None:
    with pytest.raises(UsageError, match="complex"):
        moments_of_arrays(np.zeros(2), np.eye(2) + 1j, "x.npz")
    with pytest.raises(UsageError, match="no mean and covariance"):
        moments_of_arrays(np.zeros(2), np.eye(3), "x.npz")
    with pytest.raises(RunError, match="not finite"):
        moments_of_arrays(np.zeros(2), np.full((2, 2), np.nan), "x.npz")
