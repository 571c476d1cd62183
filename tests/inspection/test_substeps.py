"""Euler's error: none on a straight line, halved with the step elsewhere."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import random_dx, random_gm
from paths import path_of

from piflow_cli.core.rollout import rollout
from piflow_cli.inspection.substeps import SUBSTEPS, convergence, enough, relative_errors
from piflow_cli.sampling.trajectory import times


def test_a_straight_line_needs_no_fine_steps() -> None:
    policy = random_dx(2, 4, 2, (3, 2), raw_src=1.0, segment=1.0, dtype=torch.float32)
    errors = relative_errors(convergence(path_of(replace(policy, grid=policy.grid[:, :1].expand(-1, 4, -1, -1, -1)))))
    assert max(errors) < 1e-5 and enough(errors) == SUBSTEPS[0]


def test_twice_the_substeps_halve_the_error() -> None:
    policy = random_dx(2, 3, 2, (3, 2), raw_src=1.0, segment=1.0, polynomial=True)
    errors = relative_errors(convergence(path_of(policy, raw_end=0.25)))
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2, rel=0.05)


def test_the_finest_error_is_that_against_much_finer_steps() -> None:
    policy = random_gm(1, 3, 2, (3, 2), raw_src=0.9, logstd=-1.0)
    path = path_of(policy, raw_end=0.2)
    fine, coarse = (
        rollout(policy, policy.x_src, policy.raw_src, times(0.2, policy.x_src), substeps=n) for n in (40_000, 256)
    )
    error = ((coarse - fine).square().mean() / (fine - policy.x_src).square().mean()).sqrt().item()
    assert relative_errors(convergence(path))[-1] == pytest.approx(error, rel=1e-2)


@pytest.mark.parametrize(
    ("errors", "fewest"),
    [
        ([0.02, 0.01, 0.005, 0.002, 0.001, 0.0005], 16),
        ([0.001, 0.02, 0.005, 0.002, 0.001, 0.0005], 32),
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0.05], None),
        ([0.001] * 6, 8),
        ([math.nan] * 6, None),
    ],
)
def test_enough_is_where_it_stays_fine(errors: list[float], fewest: int | None) -> None:
    assert enough(errors) == fewest
