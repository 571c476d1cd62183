"""Distances to data: against scipy's and numpy's, their closed forms, and what they say of a policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from piflow_cli.core.constants import ImitationConfig
from piflow_cli.core.data_distance import APART, distance_of_ends, energy_distance, moment_distance
from piflow_cli.core.imitation import Segment
from piflow_cli.core.policies.dx import DXPolicy
from piflow_cli.core.timegrid import TimeGrid, to_sigma


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


@given(st.integers(2, 9), st.floats(0.1, 3), st.floats(-2, 2), st.integers(0, 2**16))
def test_moments_are_numpy_s_where_a_batch_comes_twice_and_its_pairs_are_counted_out(
    count: int, width: float, offset: float, seed: int
) -> None:
    """Pairs of one place are what is added to those of different places in the squares of whole means."""
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(count, 2, 1, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    one = width * one + offset
    x, y = (batch.flatten(1).numpy() - other.flatten(1).numpy().mean(axis=0) for batch in (one, other))
    means = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    seconds = np.square(x.T @ x / count - y.T @ y / count).sum()
    of_places = [(np.sum(a * b, axis=1)) for a, b in ((x, x), (x, y), (y, y))]
    paired = [np.mean(dot + dot**2) for dot in of_places]
    whole = means + seconds
    expected = (count * whole - (paired[0] - 2 * paired[1] + paired[2])) / (count - 1) / 6
    assert moment_distance(one, other).item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_moments_do_not_tell_distributions_apart_that_share_them() -> None:
    """Signs and a normal distribution have mean 0 and variance 1; half of the width has not."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(4_000, 1, 1, 1, generator=generator)
    signs = torch.randn(4_000, 1, 1, 1, generator=generator).sign()
    assert moment_distance(signs, normal).item() == pytest.approx(0, abs=0.02)
    assert moment_distance(signs / 2, normal).item() == pytest.approx(0.75**2, abs=0.1)
    assert moment_distance(signs + 0.5, normal).item() > 0.25
    assert energy_distance(signs, normal, alike(4_000)).item() > 0.05
