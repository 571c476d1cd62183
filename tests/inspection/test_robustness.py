"""Perturbations: the exact posterior steers back as its teacher does, DX lets them pass by its closed form."""

from dataclasses import replace

import pytest
import torch
from helpers import MixtureFlow, random_dx, random_gm, random_momentum, seeded
from hypothesis import given
from hypothesis import strategies as st
from paths import path_of

from piflow_cli.core.kernels.dx import linear_map
from piflow_cli.core.rollout import rollout
from piflow_cli.core.timegrid import to_raw
from piflow_cli.inspection.robustness import (
    MEASURED,
    SIZES,
    component_dropout,
    passive,
    perturb,
    respond,
    shares,
    size_name,
    steering,
)
from piflow_cli.inspection.teacher_policy import TeacherPolicy
from piflow_cli.sampling.trajectory import times

FLOW = MixtureFlow(torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.0]]), torch.tensor([0.2, 0.5, 0.3]), 0.3)


def noise(seed: int = 1) -> torch.Tensor:
    return torch.randn(3, 2, 4, 3, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("shift", [1.0, 3.2])
def test_the_exact_posterior_steers_as_its_teacher_does(shift: float) -> None:
    x = noise(0)
    path = path_of(FLOW.policy(x, times(1.0, x), shift))
    found = perturb(path, noise(), FLOW.velocity, shift, 128)
    for size in SIZES:
        response = found[size_name(size)]
        assert steering(response) == pytest.approx(1, abs=1e-6)
        torch.testing.assert_close(response.left, response.lasting)
    # A policy that makes no error has none to steer back from.
    assert found[MEASURED].given.max() < 1e-20


@given(st.floats(0.05, 0.9), st.floats(0, 1), st.floats(0.5, 5), st.floats(1e-3, 10), st.booleans())
def test_dx_lets_pass_what_its_closed_form_says(
    raw_from: float, share: float, shift: float, size: float, polynomial: bool
) -> None:
    policy = random_dx(3, 4, 2, (4, 3), raw_src=0.9, shift=shift, polynomial=polynomial)
    x, raw_to = policy.x_src * 0.8, raw_from * share
    found = respond(policy, None, x, {"noise": size * noise()}, raw_from, raw_to, 64)["noise"]
    factor = 1 + linear_map(policy, [times(raw_from, x), times(raw_to, x)], 64, averaged=False).gain[0, 0].item()
    assert passive(raw_from, raw_to, shift) == pytest.approx(factor, abs=1e-12)
    assert shares(found.given, found.left)[-1] == pytest.approx(factor, abs=1e-9)
    assert steering(found) is None and found.lasting is None


@given(st.floats(0.05, 0.9), st.floats(0, 1), st.floats(0.5, 5))
def test_momentum_lets_all_of_it_pass(raw_from: float, share: float, shift: float) -> None:
    policy = random_momentum(3, 4, 2, (4, 3), raw_src=0.9, shift=shift)
    found = respond(policy, None, policy.x_src, {"noise": noise()}, raw_from, raw_from * share, 64)["noise"]
    assert shares(found.given, found.left) == pytest.approx([1.0] * found.left.shape[1], abs=1e-9)


def test_dx_gives_nothing_of_the_teachers_answer() -> None:
    policy = random_dx(3, 4, 2, (4, 3), raw_src=1.0, segment=1.0)
    teacher = TeacherPolicy(FLOW.velocity, policy.x_src, policy.raw_src, 1.0)
    found = respond(policy, teacher, policy.x_src, {"noise": noise()}, 0.6, 0.1, 128)["noise"]
    assert steering(found) == pytest.approx(0, abs=1e-9)
    assert shares(found.given, found.left)[-1] == pytest.approx(1 / 6)


def test_an_answer_twice_as_large_is_wrong_by_all_of_it() -> None:
    """D = passive delta + 2 (D* - passive delta): as far off on the other side as no answer at all."""

    def passing(x, sigma):
        return x / sigma.reshape(-1, 1, 1, 1)

    def linear(factor):
        # x_0 = factor * x: velocity (1 - factor) x / sigma, so that a change shrinks like sigma^(1 - factor).
        return lambda x, sigma: (1 - factor) * passing(x, sigma)

    x = noise(0)
    policies = [TeacherPolicy(linear(factor), x, times(1.0, x), 1.0) for factor in (0.5, 0.25)]
    found = respond(*policies, x, {"noise": noise()}, 0.8, 0.4, 4096)["noise"]
    changes = [0.5 ** (1 - factor) for factor in (0.5, 0.25)]
    expected = 1 - abs(changes[0] - changes[1]) / (changes[1] - 0.5)
    assert steering(found) == pytest.approx(expected, abs=1e-3)
    assert shares(found.given, found.left)[-1] == pytest.approx(changes[0], rel=1e-3)


def test_noise_is_measured_in_sigma() -> None:
    x = noise(0)
    path = path_of(FLOW.policy(x, times(to_raw(0.9, 3.2), x) * 0 + 0.9, 3.2))
    found = perturb(path, torch.ones_like(x), None, 3.2, 32)
    sigma = path.policy.sigma(times(path.raws[4], x))[0].item()
    assert {name: response.given[0].sqrt().item() for name, response in found.items()} == pytest.approx(
        {size_name(size): size * sigma for size in SIZES}
    )


def test_leaving_a_component_out_is_having_the_others() -> None:
    policy = random_gm(2, 2, 2, (3, 2), raw_src=0.9)
    path = path_of(policy)
    changes = component_dropout(path, 64)
    end = rollout(policy, policy.x_src, policy.raw_src, times(0.0, policy.x_src), substeps=64)
    for index in (0, 1):
        other = replace(policy, means=policy.means[:, [1 - index]], logweights=policy.logweights[:, [1 - index]])
        alone = rollout(other, policy.x_src, policy.raw_src, times(0.0, policy.x_src), substeps=64)
        torch.testing.assert_close(changes[:, index], (alone - end).flatten(1).square().mean(dim=1))


def test_a_component_without_weight_is_not_missed() -> None:
    policy = random_gm(2, 3, 2, (3, 2), raw_src=0.9)
    logweights = policy.logweights.clone()
    logweights[:, 1] = -1e6
    changes = component_dropout(path_of(replace(policy, logweights=logweights)), 64)
    assert changes[:, 1].max() < 1e-20 and changes[:, [0, 2]].min() > 1e-6


def test_a_mixture_of_one_has_none_to_leave_out() -> None:
    assert component_dropout(path_of(random_gm(2, 1, 2, (3, 2), raw_src=0.9)), 64).shape == (2, 0)
