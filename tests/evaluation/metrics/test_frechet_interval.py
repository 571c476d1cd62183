from __future__ import annotations

import json
import math
from pathlib import Path

import error_bar
import pytest
import torch
from helpers import seeded

from piflow_cli.errors import UsageError
from piflow_cli.evaluation.extractors.moments import Moments, moments
from piflow_cli.evaluation.metrics.frechet import frechet_distance
from piflow_cli.evaluation.metrics.frechet_interval import _student_quantile, enough_samples, frechet_interval

POOL, QUICK, DRAWS = 10_000, 400, 100


def standard(dimension: int) -> Moments:
    return Moments(torch.zeros(dimension, dtype=torch.float64), torch.eye(dimension, dtype=torch.float64))


def test_at_as_many_samples_as_there_are_it_estimates_what_was_measured() -> None:
    features = torch.randn(200, 5, generator=seeded()) * 1.3
    interval = frechet_interval(features, standard(5), at=10)
    assert interval.measured == pytest.approx(frechet_distance(moments(features), standard(5)), abs=1e-6)
    assert interval.estimate == interval.measured and interval.at == 200
    assert interval.low < interval.measured < interval.high


def test_the_bias_of_a_distance_that_is_linear_in_one_over_n_is_removed_exactly() -> None:
    """In one dimension with the spread known, m^2 is biased by var/N: the jackknife's m^2 - s^2/N is without."""
    features = torch.randn(100, 1, generator=seeded(), dtype=torch.float64)
    features = (features - features.mean()) / features.std() + 0.5
    # Around a point mass the distance is m^2 + s^2, and s^2 is unbiased as it is.
    point = Moments(torch.zeros(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    interval = frechet_interval(features, point, groups=100)
    assert interval.measured == pytest.approx(0.25 + 1)
    assert interval.infinite == pytest.approx(0.25 + 1 - 1 / 100)


def test_the_partition_is_the_seed_s() -> None:
    features = torch.randn(90, 4, generator=seeded())
    first, again, other = (frechet_interval(features, standard(4), seed=seed) for seed in (0, 0, 1))
    assert first == again and first.high != other.high


@pytest.mark.parametrize("scale", [1.0, 1.2])
def test_it_holds_the_value_of_ten_thousand_in_nine_draws_of_ten(scale: float) -> None:
    """The case of tests/benchmarks/error_bar.py on Gaussians; scale 1 is a distance that vanishes but for its bias."""
    pool = scale * torch.randn(POOL, 16, generator=seeded(7))
    value = frechet_distance(moments(pool), standard(16))
    hits = 0
    for draw in range(DRAWS):
        features = pool[torch.randperm(POOL, generator=seeded(draw))[:QUICK]]
        interval = frechet_interval(features, standard(16), at=POOL)
        hits += interval.low <= value <= interval.high
        assert interval.enough <= QUICK and 0 <= interval.low <= interval.high
        # What is measured on few alone would mislead: it lies far above.
        assert interval.measured > value
    assert hits >= 90


def test_what_both_sides_owe_to_the_same_noise_is_left_out_of_both() -> None:
    """A student that moves every sample by the same step: the distance is the
    step's square, known without any spread."""
    theirs = torch.randn(100, 3, generator=seeded(), dtype=torch.float64)
    step = torch.tensor([0.3, 0.0, -0.4], dtype=torch.float64)
    interval = frechet_interval(theirs + step, theirs)
    for found in (interval.measured, interval.estimate, interval.infinite, interval.low, interval.high):
        assert found == pytest.approx(0.25, abs=1e-6)


def test_it_holds_the_value_of_ten_thousand_pairs_in_nine_draws_of_ten() -> None:
    theirs = torch.randn(POOL, 8, generator=seeded(3))
    ours = theirs * 0.9 + 0.2 * torch.randn(POOL, 8, generator=seeded(4))
    value = frechet_distance(moments(ours), moments(theirs))
    hits = 0
    for draw in range(DRAWS):
        chosen = torch.randperm(POOL, generator=seeded(draw))[:QUICK]
        interval = frechet_interval(ours[chosen], theirs[chosen], at=POOL)
        hits += interval.low <= value <= interval.high
    assert hits >= 90


def test_sides_that_are_not_of_the_same_noise_are_refused() -> None:
    with pytest.raises(UsageError, match="not of the same noise"):
        frechet_interval(torch.zeros(40, 2), torch.zeros(41, 2))


def test_the_samples_that_an_interval_takes_go_by_the_effective_dimension() -> None:
    """A flat spectrum of 80 takes 480; one that falls as 1/i^2 has the effective dimension (sum 1/i)^2 / sum 1/i^2."""
    features = torch.randn(100, 80, generator=seeded(), dtype=torch.float64)
    flat = frechet_interval(features, standard(80))
    assert flat.enough == enough_samples(standard(80)) == 480
    spread = 1 / torch.arange(1, 81, dtype=torch.float64)
    falling = frechet_interval(features * spread, Moments(torch.zeros(80, dtype=torch.float64), torch.diag(spread**2)))
    assert falling.enough == math.ceil(6 * (spread.sum() ** 2 / spread.square().sum()).item()) == 91


def test_too_few_samples_have_no_interval() -> None:
    with pytest.raises(UsageError, match="19 pictures are too few"):
        frechet_interval(torch.zeros(19, 2), standard(2))


@pytest.mark.parametrize(("freedom", "tabulated"), [(9, 2.26216), (19, 2.09302), (99, 1.98422)])
def test_quantiles_of_student_s_t_are_those_of_the_tables(freedom: int, tabulated: float) -> None:
    assert _student_quantile(0.95, freedom) == pytest.approx(tabulated, abs=5e-4)


def test_the_benchmark_counts_the_intervals_that_hold_the_value(tmp_path: Path) -> None:
    """Digits themselves: a small pool, of which draws of all hold its value whatever the interval's width."""
    file = tmp_path / "error_bar.json"
    error_bar.main(["--pool", "300", "--steps", "2,1", "--counts", "300", "--draws", "2", "--json", str(file)])
    record = json.loads(file.read_text())
    cases = [(2, "data"), (1, "data"), (1, "2 steps, same noise")]
    assert [(row["steps"], row["reference"]) for row in record["results"]] == cases * 2
    for row in record["results"]:
        assert row["hits"] == row["draws"] == 2
        assert row["measured"] == pytest.approx(row["value"], rel=1e-6) and row["width"] > 0


def test_the_recorded_benchmark_holds_the_value_in_ninety_draws_of_a_hundred() -> None:
    """The promise of the README, row by row: digits, raw pixels and features of the classifier."""
    record = json.loads((Path(error_bar.__file__).parent / "results" / "error-bar-digits.json").read_text())
    assert record["pool"] == 10_000
    rows = [row for row in record["results"] if row["images"] >= row["enough"]]
    assert len(rows) >= 20 and all(row["draws"] == 100 and row["hits"] >= 90 for row in rows)
