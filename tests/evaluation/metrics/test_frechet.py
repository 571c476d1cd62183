"""The Frechet distance from moments and from the features themselves."""

from __future__ import annotations

import pytest
import torch
from helpers import seeded
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.errors import RunError
from piflow_cli.evaluation.extractors.moments import moments
from piflow_cli.evaluation.metrics.frechet import (
    effective_dimension,
    frechet_distance,
    frechet_distance_of_samples,
    square_root,
)
from piflow_cli.evaluation.metrics.frechet_interval import frechet_interval

COUNTS = st.integers(2, 12)


@given(COUNTS, COUNTS, st.integers(1, 20), st.integers(0, 2**31))
def test_it_is_the_same_from_moments_and_from_samples(count: int, others: int, dimension: int, seed: int) -> None:
    generator = seeded(seed)
    one = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    other = 1 + 2 * torch.randn(others, dimension, generator=generator, dtype=torch.float64)
    expected = frechet_distance(moments(one), moments(other))
    # Roots of eigenvalues that are zero but for rounding are 1e-8.
    assert frechet_distance_of_samples(one, other) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_samples_and_their_shifted_copies_are_apart_by_the_shift() -> None:
    samples = torch.randn(5, 12_288, generator=seeded())
    assert frechet_distance_of_samples(samples, samples + 0.5) == pytest.approx(12_288 / 4, rel=1e-6)


def test_the_effective_dimension_is_that_of_the_covariance() -> None:
    samples = torch.randn(9, 30, generator=seeded(), dtype=torch.float64)
    root = square_root(moments(samples).covariance)
    expected = root.trace().square() / root.square().sum()
    assert effective_dimension(samples) == pytest.approx(expected.item(), rel=1e-6)
    # Two equal standard deviations.
    assert effective_dimension(torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])) == pytest.approx(2)


def test_the_interval_of_few_samples_of_many_features_measures_their_distance() -> None:
    ours, theirs = torch.randn(2, 25, 40, generator=seeded())
    interval = frechet_interval(ours, theirs)
    assert interval.measured == pytest.approx(frechet_distance(moments(ours), moments(theirs)), rel=1e-6)


@pytest.mark.parametrize(
    "samples, words",
    [(torch.ones(1, 3), "no covariance"), (torch.tensor([[1.0], [torch.nan]]), "not finite")],
)
def test_samples_without_a_covariance_are_refused(samples: torch.Tensor, words: str) -> None:
    with pytest.raises(RunError, match=words):
        frechet_distance_of_samples(samples, torch.randn(4, samples.shape[1], generator=seeded()))
