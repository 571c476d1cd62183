"""A policy that is its teacher's exact posterior is nowhere apart from it, and
one that is not, by as much as it is off."""

import pytest
import torch
from helpers import MixtureFlow, seeded
from paths import path_of

from piflow_cli.inspection.against_teacher import compare
from piflow_cli.inspection.teacher_policy import TeacherPolicy
from piflow_cli.sampling.trajectory import times

FLOW = MixtureFlow(torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.0]]), torch.tensor([0.2, 0.5, 0.3]), 0.3)
NOISE = torch.randn(3, 2, 4, 3, generator=seeded(), dtype=torch.float64)


@pytest.fixture
def path():
    return path_of(FLOW.policy(NOISE, times(1.0, NOISE)))


def test_the_exact_policy_is_its_teacher(path) -> None:
    found = compare(path, FLOW.velocity, NOISE, 1.0, 128)
    assert max(error.relative for error in found.errors) < 1e-12
    assert found.apart.gap.max() < 1e-12
    for estimate, raw, x in zip(found.estimates, path.raws, path.states):
        torch.testing.assert_close(estimate, path.policy.posterior_mean(x, times(raw, x)))


def test_a_teacher_that_is_off_by_a_constant_is_so_everywhere(path) -> None:
    found = compare(path, lambda x, sigma: FLOW.velocity(x, sigma) + 0.5, NOISE, 1.0, 128)
    assert [error.squared for error in found.errors] == pytest.approx([0.25] * 8)


def test_speeds_are_those_on_the_teachers_own_path(path) -> None:
    found = compare(path, FLOW.velocity, NOISE, 1.0, 128)
    # On the student's path, which is the same here, the trajectory error has the teacher's mean squares.
    torch.testing.assert_close(
        found.apart.teacher_speed.mean(dim=0).tolist(), [error.teacher for error in found.errors], rtol=1e-4, atol=0
    )


def test_no_answer_of_the_teacher_is_asked_for_twice(path) -> None:
    calls = []

    def counted(x, sigma):
        calls.append(sigma[0].item())
        return FLOW.velocity(x, sigma)

    compare(path, counted, NOISE, 1.0, 64)
    assert len(calls) == 8 + 64


def test_a_field_read_as_a_policy_has_its_x_0() -> None:
    policy = TeacherPolicy(FLOW.velocity, NOISE, times(1.0, NOISE), 3.0)
    raw = times(0.6, NOISE)
    torch.testing.assert_close(policy.posterior_mean(NOISE, raw), FLOW.posterior_mean(NOISE, policy.sigma(raw)))
