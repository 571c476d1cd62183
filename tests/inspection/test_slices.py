"""A slice is the policy itself, seen along one channel of one position."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import random_dx, random_gm, random_momentum
from paths import path_of

from piflow_cli.errors import UsageError
from piflow_cli.inspection.kinds.mixture import marginal
from piflow_cli.inspection.request import Position
from piflow_cli.inspection.slices import slice_of
from piflow_cli.inspection.tensors import position_of
from piflow_cli.sampling.trajectory import times

KINDS = {"gm": random_gm, "dx": random_dx, "momentum": random_momentum}


@pytest.mark.parametrize("kind", KINDS)
def test_the_slice_goes_through_the_rollout(kind: str) -> None:
    path = path_of(KINDS[kind](2, 3, 2, (4, 5), raw_src=0.9, dtype=torch.float32), raw_end=0.1)
    cut = slice_of(path, Position(x=3, y=2, axis=1), 128)
    assert cut.state[0].item() == pytest.approx(path.states[0][0, 1, 2, 3].item())
    assert cut.state[-1].item() == pytest.approx(path.end[0, 1, 2, 3].item(), abs=0.02)
    assert (cut.density is None) == (kind != "gm")
    # The field at the state itself, between two of the values, is the policy's velocity there.
    velocity = path.policy.velocity(path.states[0], times(0.9, path.end))[0, 1, 2, 3].item()
    above = int(torch.searchsorted(cut.values, cut.state[0]))
    low, high = sorted(cut.velocity[above - 1 : above + 1, 0].tolist())
    assert low - 1e-3 <= velocity <= high + 1e-3
    assert cut.values[0] < min(cut.state.min(), cut.estimate.min()) and cut.values[-1] > max(
        cut.state.max(), cut.estimate.max()
    )


def test_there_is_no_velocity_at_sigma_0() -> None:
    cut = slice_of(path_of(random_gm(1, 3, 1, (2, 2), raw_src=1.0)), Position(0, 1), 32)
    assert cut.velocity[:, -1].isnan().all() and cut.velocity[:, :-1].isfinite().all()


def test_the_density_is_the_posterior_of_the_channel() -> None:
    policy = position_of(random_gm(1, 4, 2, (2, 2), raw_src=0.9, logstd=-1.0), 0, (1, 0))
    values = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    for raw in (0.9, 0.5):
        x = 0.8 * policy.x_src
        density = marginal(policy, x, times(raw, x), values, 1)
        assert torch.trapezoid(density, values).item() == pytest.approx(1, abs=1e-6)
        mean = policy.posterior_mean(x, times(raw, x))[0, 1].item()
        assert torch.trapezoid(density * values, values).item() == pytest.approx(mean, abs=1e-6)


def test_a_single_gaussian_is_as_high_as_it_is_narrow() -> None:
    policy = random_gm(1, 1, 1, (1, 1), raw_src=0.5)
    policy = replace(policy, logstds=torch.zeros(1, dtype=torch.float64))
    centre = policy.posterior_mean(policy.x_src, policy.raw_src).flatten()
    density = marginal(policy, policy.x_src, policy.raw_src, centre, 0)
    assert density.item() == pytest.approx(1 / (0.5 * math.sqrt(2 * math.pi)))


@pytest.mark.parametrize(
    ("position", "message"),
    [
        (Position(5, 0), "position 5,0 is outside the state, which has 5 columns and 4 rows"),
        (Position(0, 4), "position 0,4 is outside"),
        (Position(4, 3, 2), "axis 2 is no channel of the state, which has 2"),
    ],
)
def test_a_position_outside_is_refused(position: Position, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        position.check((2, 4, 5))


def test_a_position_at_the_edge_is_inside() -> None:
    Position(4, 3, 1).check((2, 4, 5))
