"""The learning rate at its turning points, and the norm of gradients."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from piflow_cli.console import Console
from piflow_cli.core.policies.kinds import head_class, policy_kinds
from piflow_cli.presets.resolve import load
from piflow_cli.training.loop import _clip
from piflow_cli.training.optimizer import learning_rate, make_optimizer

SETTINGS = replace(load("digits").optimisation, learning_rate=0.1, iterations=110, warmup=10)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_rate_rises_in_even_steps_during_the_warm_up(schedule) -> None:
    settings = replace(SETTINGS, schedule=schedule)
    assert [learning_rate(iteration, settings) for iteration in range(11)] == pytest.approx(
        [0.01 * n for n in range(1, 11)] + [0.1]
    )


def test_a_constant_rate_stays_and_a_cosine_is_half_at_the_middle_and_zero_at_the_end() -> None:
    constant, cosine = replace(SETTINGS, schedule="constant"), replace(SETTINGS, schedule="cosine")
    assert [learning_rate(iteration, constant) for iteration in (10, 60, 110)] == [0.1, 0.1, 0.1]
    assert [learning_rate(iteration, cosine) for iteration in (10, 60, 110)] == pytest.approx([0.1, 0.05, 0.0])


def test_without_a_warm_up_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(0, replace(SETTINGS, warmup=0, schedule="cosine")) == 0.1


def test_log_gammas_learn_at_a_rate_of_their_own() -> None:
    """Adam's first step is the rate itself, whatever the gradient (arXiv 1412.6980)."""
    named = {
        name: torch.nn.Parameter(torch.zeros(2))
        for name in ("head.means.weight", "head.loggamma.weight", "proj.loggamma.bias")
    }
    settings = replace(SETTINGS, gamma_learning_rate=0.25)
    slow = head_class("momentum").slow
    optimizer = make_optimizer(named.items(), slow, settings, torch.device("cpu"), Console(quiet=True))
    for group in optimizer.param_groups:
        group["lr"] = group["share"] * 0.1
    for value in named.values():
        value.grad = torch.tensor([3.0, -0.5])
    optimizer.step()
    moved = {name: value.tolist() for name, value in named.items()}
    assert moved["head.means.weight"] == pytest.approx([-0.1, 0.1])
    assert moved["head.loggamma.weight"] == moved["proj.loggamma.bias"] == pytest.approx([-0.025, 0.025])


def test_a_rate_of_their_own_is_a_setting_of_the_policies_that_have_one() -> None:
    for kind in policy_kinds():
        assert bool(kind.head.slow) == ("optimisation.gamma_learning_rate" in kind.settings)


@pytest.mark.parametrize(("largest", "left"), [(None, 5.0), (50.0, 5.0), (2.0, 2.0)])
def test_gradients_are_scaled_down_to_the_largest_norm_and_never_up(largest: float | None, left: float) -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, -4.0]])
    session = SimpleNamespace(accelerator=Accelerator(cpu=True), student=SimpleNamespace(model=model), sharded=False)
    assert _clip(session, largest).item() == pytest.approx(5)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.6, -0.8]]) * left)
