"""Ways of known shape, and a mixture that changes its mind once."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import random_dx, random_gm
from hypothesis import given
from hypothesis import strategies as st
from paths import path_of

from piflow_cli.core.policies.gmflow import GMFlowPolicy
from piflow_cli.inspection.kinds.mixture import switching
from piflow_cli.inspection.motion import angle, motion, straightness


@given(st.floats(1e-6, math.pi), st.floats(0.1, 10))
def test_an_angle_is_found_however_small(turn: float, length: float) -> None:
    one = torch.tensor([1.0, 0.0], dtype=torch.float64)
    other = length * torch.tensor([math.cos(turn), math.sin(turn)], dtype=torch.float64)
    assert angle(one, other).item() == pytest.approx(math.degrees(turn), rel=1e-6)


def test_a_right_angle_is_as_crooked_as_its_diagonal() -> None:
    states = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], [[2.0, 2.0]] * 3])
    assert straightness(states).tolist() == pytest.approx([math.sqrt(2) / 2, 1.0])


def test_a_fixed_x_0_is_approached_straight_and_evenly() -> None:
    policy = random_dx(2, 4, 2, (3, 2), raw_src=1.0, segment=1.0)
    policy = replace(policy, grid=policy.grid[:, :1].expand(-1, 4, -1, -1, -1))
    found = motion(path_of(policy))
    expected = policy.grid[:, 0].flatten(1).square().mean(dim=1).sqrt()
    torch.testing.assert_close(found.speed, expected.unsqueeze(1).expand(-1, 8))
    assert found.turn.abs().max() < 1e-5
    torch.testing.assert_close(found.straightness, torch.ones(2, dtype=torch.float64))


def three_peaks(weights: list[float], x_0: list[float]) -> GMFlowPolicy:
    """Narrow components at ``x_0`` everywhere, seen from noise at raw time 1."""
    policy = random_gm(2, len(x_0), 1, (3, 2), raw_src=1.0)
    x_src = torch.zeros_like(policy.x_src)
    means = -torch.tensor(x_0, dtype=torch.float64).reshape(1, -1, 1, 1, 1).expand_as(policy.means)
    logweights = torch.tensor(weights, dtype=torch.float64).log().reshape(1, -1, 1, 1, 1).expand_as(policy.logweights)
    return replace(
        policy, means=means, logweights=logweights, logstds=torch.full((2,), -4.0, dtype=torch.float64), x_src=x_src
    )


def test_the_heaviest_component_gives_way_to_the_one_on_the_way() -> None:
    """The mean of the three lies nearest to the second, though the first has most weight at the source."""
    found = switching(path_of(three_peaks([0.4, 0.3, 0.3], [0.0, 0.75, 1.2])), 128)
    assert found.switches.tolist() == pytest.approx([1, 1])
    assert found.moved.sum(dim=1).tolist() == pytest.approx([1, 1])
    assert found.effective[0, 0].item() == pytest.approx(
        math.exp(-sum(w * math.log(w) for w in (0.4, 0.3, 0.3))), rel=1e-5
    )
    assert found.effective[0, -1].item() == pytest.approx(1, abs=1e-3)
    assert found.shift.tolist() == pytest.approx([0.7, 0.7], abs=1e-3)


def test_a_single_component_has_nothing_to_switch_to() -> None:
    found = switching(path_of(three_peaks([1.0], [0.3])), 128)
    assert found.switches.tolist() == [0, 0] and found.shift.tolist() == [0, 0]
    assert found.effective.unique().tolist() == [1]
