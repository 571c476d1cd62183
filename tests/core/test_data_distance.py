"""Distances to data: against scipy's and numpy's, their closed forms, and what they say of a policy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from piflow_cli.core.constants import ImitationConfig
from piflow_cli.core.data_distance import APART, RIDGE, distance_of_ends, energy_distance, moment_distance
from piflow_cli.core.imitation import Segment
from piflow_cli.core.policies.dx import DXPolicy
from piflow_cli.core.timegrid import TimeGrid, to_sigma
from piflow_cli.evaluation.extractors.moments import moments
from piflow_cli.evaluation.metrics.frechet import frechet_distance


def alike(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int64)


@given(st.integers(2, 40), st.floats(0.1, 3), st.floats(-2, 2), st.integers(0, 2**16))
def test_it_is_scipy_s_without_the_pairs_of_one_place(count: int, width: float, offset: float, seed: int) -> None:
    """scipy counts all pairs, and gives the root."""
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(count, 1, 1, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    other = width * other + offset
    whole = stats.energy_distance(one.flatten().numpy(), other.flatten().numpy()) ** 2
    paired = (one - other).abs().mean().item()
    expected = (count * whole - 2 * paired) / (count - 1)
    # Differences are smoothed near zero.
    assert energy_distance(one, other, alike(count)).item() == pytest.approx(expected, abs=5e-3)


def test_of_two_points_it_is_twice_their_distance_whatever_the_number_of_values() -> None:
    for shape in ((4, 1, 2, 2), (4, 3, 8, 8)):
        one, other = torch.full(shape, 0.25), torch.full(shape, -0.5)
        assert energy_distance(one, other, alike(4)).item() == pytest.approx(2 * 0.75, abs=5e-3)


def test_samples_of_other_marks_are_further_apart_in_all_three_means() -> None:
    """Where values are equal and all marks differ, all three means are the same."""
    same = torch.full((5, 1, 2, 2), 0.3)
    assert energy_distance(same, same, torch.arange(5)).item() == pytest.approx(0, abs=1e-6)
    # All of one mark lie in one point, those of the other in another: batches with the values exchanged.
    values, marks = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(4, 1, 1, 1), torch.tensor([0, 0, 1, 1])
    within = 2 * (4 * 1 + 8 * APART**0.5) / 12
    across = (4 * 0 + 8 * (1 + APART) ** 0.5) / 12
    assert energy_distance(values, 1 - values, marks).item() == pytest.approx(within - 2 * across, abs=5e-3)


def test_data_noised_to_the_level_of_the_end_are_what_ends_are_held_against() -> None:
    """A grid of one point leads to a known state: x_0 + (sigma_end / sigma)(x - x_0)."""
    generator = torch.Generator().manual_seed(0)
    x, data, noise, x_0 = (torch.randn(6, 2, 3, 3, generator=generator) for _ in range(4))
    raw = torch.ones(6, dtype=torch.float64)
    grid = (x - x_0).unsqueeze(1).requires_grad_()
    policy = DXPolicy(grid, x, raw, segment=0.5, shift=2.0)
    sigma = to_sigma(torch.tensor(0.5, dtype=torch.float64), 2.0).item()
    ends, target = x_0 + sigma * (x - x_0), (1 - sigma) * data + sigma * noise
    weights = ImitationConfig(TimeGrid(2, 1.0, 2.0), energy=2.0, moments=3.0)
    found = distance_of_ends(policy, Segment(x, raw, torch.full_like(raw, 0.5)), data, noise, alike(6), weights)
    expected = 2 * energy_distance(ends, target, alike(6)) + 3 * moment_distance(ends, target)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)
    found.backward()
    assert grid.grad is not None and grid.grad.abs().amin() > 0


def test_descending_it_brings_samples_to_the_data_and_keeps_their_spread() -> None:
    """A mean square would bring all of them to the mean."""
    generator = torch.Generator().manual_seed(0)
    samples = (0.1 * torch.randn(64, 1, 1, 1, generator=generator)).requires_grad_()
    data = torch.randn(64, 1, 1, 1, generator=generator) + 2
    optimizer = torch.optim.Adam([samples], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        energy_distance(samples, data[torch.randperm(64, generator=generator)], alike(64)).backward()
        optimizer.step()
    assert samples.mean().item() == pytest.approx(data.mean().item(), abs=0.1)
    assert samples.std().item() == pytest.approx(data.std().item(), rel=0.15)


def by_whole_moments(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The distance from means and second moments of whole batches, without what pairs of one place bring to them."""
    both = torch.cat([one, other]).double().flatten(1)
    centred = both - both.detach().mean(dim=0)
    covariance = centred.detach().T @ centred.detach() / len(both)
    values, vectors = torch.linalg.eigh(covariance + RIDGE * covariance.diagonal().mean() * torch.eye(both.shape[1]))
    metric = vectors @ values.rsqrt().diag() @ vectors.T
    x, y = centred[: len(one)], centred[len(one) :]
    seconds = x.T @ x / len(x) - y.T @ y / len(y)
    whole = (x.mean(dim=0) - y.mean(dim=0)).square().sum() + (metric @ seconds @ metric @ seconds).trace() / 4
    of_places = [
        ((a * b).sum(dim=1) + (a @ metric * b).sum(dim=1).square() / 4).mean() for a, b in ((x, x), (x, y), (y, y))
    ]
    count = len(one)
    return (count * whole - (of_places[0] - 2 * of_places[1] + of_places[2])) / (count - 1) / both.shape[1]


@given(st.integers(2, 9), st.floats(0.1, 3), st.floats(-2, 2), st.integers(0, 2**16))
def test_moments_are_those_of_whole_batches_without_the_pairs_of_one_place(
    count: int, width: float, offset: float, seed: int
) -> None:
    """Gradients too, with the covariance that weighs held fixed; of more values than samples, and of fewer."""
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(count, 2, 1, 3, generator=generator) for _ in range(2))
    one = (width * one + offset).requires_grad_()
    found, expected = moment_distance(one, other), by_whole_moments(one, other)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-3)
    slopes = [torch.autograd.grad(value, one)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-3 * slopes[1].abs().max().item())


def test_of_normal_batches_near_one_another_it_is_their_frechet_distance() -> None:
    """Also where some values have a sixteenth of the variance of others."""
    generator = torch.Generator().manual_seed(0)
    widths, scales = torch.tensor([0.3, 1.0, 0.5, 1.2]), torch.tensor([1.3, 0.9, 1.0, 1.1])
    # The same draws, so that the difference of their moments is that of the distributions.
    normal = torch.randn(1_500, 4, generator=generator)
    one, other = widths * normal, widths * normal * scales + 0.1
    frechet = frechet_distance(moments(one), moments(other)) / 4
    found = moment_distance(one[..., None, None], other[..., None, None]).item()
    assert frechet > 0.01
    assert found == pytest.approx(frechet, rel=0.05)


def test_it_is_zero_in_the_mean_over_draws_of_one_distribution_however_few_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2_000, 2, 3, 5, 1, 1, generator=generator).exp()
    found = torch.stack([moment_distance(one, other) for one, other in draws])
    assert found.std() > 0.01
    assert found.mean().abs() < 3 * found.std() / len(found) ** 0.5


def test_moments_do_not_tell_distributions_apart_that_share_them() -> None:
    """Signs and a normal distribution have mean 0 and variance 1; half of the width has not."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(1_500, 1, 1, 1, generator=generator)
    signs = torch.randn(1_500, 1, 1, 1, generator=generator).sign()
    assert moment_distance(signs, normal).item() == pytest.approx(0, abs=0.02)
    between = (1 + RIDGE) * (1 + 1 / 4) / 2
    assert moment_distance(signs / 2, normal).item() == pytest.approx(0.75**2 / 4 / between, abs=0.03)
    assert moment_distance(signs + 0.5, normal).item() > 0.15
    assert energy_distance(signs, normal, alike(1_500)).item() > 0.05


def test_samples_that_are_all_alike_are_at_no_distance_and_have_a_slope() -> None:
    same = torch.full((4, 1, 2, 2), 0.3).requires_grad_()
    found = moment_distance(same, same.detach()) + energy_distance(same, same.detach(), alike(4))
    assert found.item() == 0
    assert torch.autograd.grad(found, same)[0].isfinite().all()
