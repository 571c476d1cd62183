"""The front door: published rollouts, convergence, and the meaning of a mean velocity."""

from dataclasses import replace

import pytest
import torch
from helpers import MixtureFlow, close, golden, golden_dx, golden_gm, random_dx, random_gm, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from piflow_cli.core.rollout import mean_velocity, rollout, rollout_through
from piflow_cli.core.timegrid import to_sigma


@pytest.mark.parametrize(("end", "tolerance"), [("mid", 1e-4), ("end", 1e-3)])
@pytest.mark.parametrize(("temperature", "suffix"), [(1.0, ""), (0.3, "_T0.3")])
def test_gm_rollouts_equal_the_published_ones(end: str, tolerance: float, temperature: float, suffix: str) -> None:
    numbers = golden("policies.safetensors")
    policy = golden_gm().with_temperature(temperature)
    x = rollout(policy, numbers["x_src"], numbers["raw_src"], numbers[f"gm.rollout_{end}.raw_dst"])
    close(x, numbers[f"gm.rollout_{end}.x_dst{suffix}"], tolerance)


def test_a_rollout_without_dropped_components_equals_the_published_one() -> None:
    numbers = golden("policies.safetensors")
    policy = replace(golden_gm(), dropped=numbers["gm.dropout.mask"].bool())
    close(rollout(policy, numbers["x_src"], numbers["raw_src"], torch.zeros(3)), numbers["gm.dropout.x_dst"], 1e-3)


def test_the_mean_velocity_of_a_window_equals_the_published_one() -> None:
    numbers = golden("policies.safetensors")
    raw = numbers["gm.window.raw"]
    mean = mean_velocity(golden_gm(), numbers["gm.window.x"], raw, raw - 3 / 128)
    close(mean, numbers["gm.window.mean_velocity_3of128"])


@pytest.mark.parametrize("mode", ["grid", "polynomial"])
def test_dx_rollouts_equal_the_published_ones(mode: str) -> None:
    numbers = golden("policies.safetensors")
    x = rollout(golden_dx(mode), numbers["x_src"], numbers["raw_src"], numbers[f"dx.{mode}.rollout.raw_dst"])
    close(x, numbers[f"dx.{mode}.rollout.x_dst"])


@pytest.mark.parametrize("make", [random_gm, random_dx])
@pytest.mark.parametrize("shift", [1.0, 3.2])
def test_rollouts_converge_at_first_order_to_a_fine_integration(make, shift: float) -> None:
    policy = make(shift=shift)
    start, end = policy.raw_src, policy.raw_src - 0.5
    fine = rollout(policy, policy.x_src, start, end, substeps=16384)
    errors = [(rollout(policy, policy.x_src, start, end, substeps=n) - fine).norm().item() for n in (64, 128, 256)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.25)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.25)
    assert errors[2] / fine.norm().item() < 0.01


def test_a_rollout_of_the_exact_mixture_lands_on_the_data() -> None:
    """From pure noise down to sigma 0, samples of a two-point distribution land on one of its points."""
    flow = MixtureFlow(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.5, 0.5]), 1e-3)
    noise = torch.randn(1, 1, 400, generator=seeded(), dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    x = rollout(flow.policy(noise, one), noise, one, torch.zeros_like(one), substeps=512)
    assert (x.abs() - 1).abs().quantile(0.95) < 0.02
    assert x.mean().abs() < 0.15


@settings(max_examples=30)
@given(st.floats(0, 0.9), st.floats(0.3, 4), st.booleans(), st.integers(0, 9))
def test_mean_velocity_is_displacement_over_change_of_sigma(length: float, shift: float, gm: bool, seed: int) -> None:
    policy = (random_gm if gm else random_dx)(shift=shift, seed=seed)
    start, end = policy.raw_src, policy.raw_src - length
    mean = mean_velocity(policy, policy.x_src, start, end)
    if length * 128 < 1.5:
        torch.testing.assert_close(mean, policy.velocity(policy.x_src, start))
    if length > 1e-6:
        change = (to_sigma(end, shift) - to_sigma(start, shift)).reshape(-1, 1, 1, 1)
        displacement = rollout(policy, policy.x_src, start, end) - policy.x_src
        torch.testing.assert_close(mean * change, displacement, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("make", [random_gm, random_dx])
def test_samples_of_a_batch_keep_their_own_times(make) -> None:
    start, end = torch.tensor([0.9, 0.5, 0.2]).double(), torch.tensor([0.1, 0.5, 0.15]).double()
    policy = make(batch=3, raw_src=start, shift=3.2)
    together = rollout(policy, policy.x_src, start, end)
    means = mean_velocity(policy, policy.x_src, start, end)
    tensors = {
        name: value
        for name, value in vars(policy).items()
        if isinstance(value, torch.Tensor) and name in policy.__dataclass_fields__
    }
    for index in range(3):
        one = replace(policy, **{name: value[index : index + 1] for name, value in tensors.items()})
        alone = rollout(one, one.x_src, start[index : index + 1], end[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone)
        alone = mean_velocity(one, one.x_src, start[index : index + 1], end[index : index + 1])
        torch.testing.assert_close(means[index : index + 1], alone)


@pytest.mark.parametrize("make", [random_gm, random_dx])
def test_states_on_the_way_are_rollouts_of_their_legs(make) -> None:
    policy = make(shift=2.0)
    raws = [policy.raw_src, policy.raw_src - 0.3, policy.raw_src - 0.3, policy.raw_src - 0.7]
    x = policy.x_src
    for state, start, end in zip(rollout_through(policy, x, raws), raws, raws[1:]):
        x = rollout(policy, x, start, end)
        torch.testing.assert_close(state, x)


@pytest.mark.parametrize("space", [(5,), (3, 2), (2, 3, 2), (2, 2, 2, 2)])
@pytest.mark.parametrize("make", [random_gm, random_dx])
def test_positions_are_independent_whatever_the_rank_of_space(make, space: tuple[int, ...]) -> None:
    policy = make(space=space)
    flat = {
        name: getattr(policy, name).flatten(3 if name != "x_src" else 2)
        for name in ("means", "logweights", "grid", "x_src")
        if hasattr(policy, name)
    }
    end = policy.raw_src - 0.4
    shaped = rollout(policy, policy.x_src, policy.raw_src, end)
    rolled = rollout(replace(policy, **flat), flat["x_src"], policy.raw_src, end)
    torch.testing.assert_close(shaped.flatten(2), rolled)


@pytest.mark.parametrize("length", [0.0, 0.02, 0.3])
def test_gradients_of_the_mean_velocity_match_finite_differences(length: float) -> None:
    gm = random_gm(batch=1, components=2, channels=2, space=(2,), logstd=-1.0)

    def gm_mean(means, logweights, logstds):
        policy = replace(gm, means=means, logweights=logweights, logstds=logstds)
        return mean_velocity(policy, gm.x_src * 0.9, gm.raw_src * 0.9, gm.raw_src * 0.9 - length, substeps=32)

    leaves = [value.clone().requires_grad_() for value in (gm.means, gm.logweights, gm.logstds)]
    assert torch.autograd.gradcheck(gm_mean, leaves)
    dx = random_dx(batch=1, points=3, channels=1, space=(2,))

    def dx_mean(grid):
        return mean_velocity(replace(dx, grid=grid), dx.x_src, dx.raw_src, dx.raw_src - length, substeps=32)

    assert torch.autograd.gradcheck(dx_mean, [dx.grid.clone().requires_grad_()])


def test_gradients_stay_finite_where_a_sample_has_no_interval() -> None:
    policy = random_gm(batch=2, dtype=torch.float32)
    leaf = policy.means.clone().requires_grad_()
    end = policy.raw_src - torch.tensor([0.0, 0.3], dtype=torch.float64)
    mean_velocity(replace(policy, means=leaf), policy.x_src, policy.raw_src, end).sum().backward()
    assert leaf.grad.isfinite().all()
    assert leaf.grad[0].abs().sum() > 0
