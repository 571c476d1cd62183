import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import seeded
from piflow_cli.evaluation.statistics import Moments, frechet_distance, moments


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
