"""Networks that are no flow models against the schedulers of diffusers that were made for them."""

from collections.abc import Callable
from itertools import pairwise

import diffusers
import pytest
import torch
from helpers import seeded
from torch import Tensor

from piflow_cli.core.decoding import PolicyDecoder
from piflow_cli.core.parameterisations.base import Affine
from piflow_cli.core.parameterisations.edm import EDM
from piflow_cli.core.parameterisations.kinds import ROWS, parameterisation_of
from piflow_cli.core.parameterisations.vp import BETAS, VariancePreserving
from piflow_cli.core.policies.kinds import policy_kind, policy_names
from piflow_cli.core.timegrid import TimeGrid, to_sigma

VP = [name for name, row in ROWS.items() if isinstance(row, VariancePreserving)]
NAMES = [*VP, "edm"]
DDIM = {"epsilon": "epsilon", "v": "v_prediction", "x_0": "sample"}
TIMES = torch.tensor([999, 500, 17, 0])
X = torch.randn(4, 2, 3, generator=seeded(), dtype=torch.float64)


def ddim(name: str) -> diffusers.DDIMScheduler:
    row = ROWS[name]
    first, last = BETAS[row.schedule]
    return diffusers.DDIMScheduler(
        beta_start=first, beta_end=last, beta_schedule=row.schedule, prediction_type=DDIM[row.predicts],
        clip_sample=False, set_alpha_to_one=True,
    )  # fmt: skip


def sigma_of(alpha_bar: Tensor) -> Tensor:
    a, b = alpha_bar.double().sqrt(), (1 - alpha_bar.double()).sqrt()
    return b / (a + b)


def network(x: Tensor, time: Tensor) -> Tensor:
    """Something that depends on all of state and time, and not linearly."""
    return torch.sin(1.7 * x + time.reshape(-1, *[1] * (x.ndim - 1)) / 500) + 0.3 * x.flip(-1)


@pytest.mark.parametrize("name", VP)
def test_a_vp_network_is_told_the_states_and_times_of_its_scheduler(name: str) -> None:
    row, noise = parameterisation_of(name), torch.randn(X.shape, generator=seeded(1), dtype=torch.float64)
    alpha_bar = ddim(name).alphas_cumprod[TIMES]
    a, b = (value.double().sqrt().reshape(-1, 1, 1) for value in (alpha_bar, 1 - alpha_bar))
    sigma = sigma_of(alpha_bar)
    spread = sigma.reshape(-1, 1, 1)
    flow = (1 - spread) * X + spread * noise
    # Its table is in float32, where the first times are known to a few digits.
    torch.testing.assert_close(row.timestep(sigma), TIMES.double(), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(row.input_scale(sigma).reshape(-1, 1, 1) * flow, a * X + b * noise, rtol=1e-5, atol=1e-6)
    told = {"epsilon": noise, "v": a * noise - b * X, "x_0": X}[row.predicts]
    torch.testing.assert_close(row.affine(sigma).velocity(told, flow), noise - X, rtol=1e-5, atol=1e-4)
    assert row.noisiest == pytest.approx(sigma[0].item(), abs=1e-6) and row.noisiest < 1


def test_an_edm_network_is_preconditioned_as_its_scheduler_has_it() -> None:
    row, scheduler = EDM(), diffusers.EDMEulerScheduler(sigma_data=0.5, sigma_max=80.0)
    deviations = torch.tensor([80.0, 1.3, 0.05, 0.002], dtype=torch.float64)
    sigma = deviations / (1 + deviations)
    flow = X / (1 + deviations.reshape(-1, 1, 1))
    for index, deviation in enumerate(deviations):
        given = scheduler.precondition_inputs(X[index], deviation)
        torch.testing.assert_close(row.input_scale(sigma)[index] * flow[index], given)
        assert row.timestep(sigma)[index].item() == pytest.approx(1000 * scheduler.precondition_noise(deviation).item())
        denoised = scheduler.precondition_outputs(X[index], given.sin(), deviation)
        found = row.affine(sigma[index : index + 1]).velocity(given.sin()[None], flow[index][None])[0]
        torch.testing.assert_close(found, (flow[index] - denoised) / sigma[index])
    assert row.noisiest == pytest.approx(80 / 81) and row.first_state(X).equal(80 / 81 * X)


def euler(name: str, x: Tensor, sigmas: Tensor) -> Tensor:
    row = parameterisation_of(name)
    for sigma, following in pairwise(sigmas):
        level = sigma.expand(len(x))
        scale = row.input_scale(level).reshape(-1, 1, 1)
        velocity = row.affine(level).velocity(network(scale * x, row.timestep(level)), x)
        x = x + (following - sigma) * velocity
    return x


def by_ddim(name: str) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    scheduler = ddim(name)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(timesteps := 20)
    x = X * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        output = network(x, time.double().expand(len(x)))
        x = scheduler.step(output, time, x).prev_sample
    levels = sigma_of(scheduler.alphas_cumprod[scheduler.timesteps])
    assert len(levels) == timesteps
    # Their first state, in the flow: unit noise over a + b.
    start = X * ((1 - levels[0]) ** 2 + levels[0] ** 2).sqrt()
    return torch.cat([levels, levels.new_zeros(1)]), start, lambda ours: ours - x


def by_edm(name: str) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.5, sigma_max=80.0)
    scheduler.set_timesteps(20)
    x = X * 80
    for deviation, following in pairwise(scheduler.sigmas.double()):
        told = scheduler.precondition_inputs(x, deviation)
        output = network(told, 1000 * scheduler.precondition_noise(deviation).expand(len(x)))
        denoised = scheduler.precondition_outputs(x, output, deviation)
        x = x + (x - denoised) / deviation * (following - deviation)
    sigmas = scheduler.sigmas.double()
    return sigmas / (1 + sigmas), parameterisation_of(name).first_state(X), lambda ours: ours - x


@pytest.mark.parametrize("name", NAMES)
def test_euler_steps_of_the_flow_are_those_of_the_original_ode(name: str) -> None:
    sigmas, start, difference = (by_edm if name == "edm" else by_ddim)(name)
    found = euler(name, start, sigmas)
    assert found.abs().max() > 0.5 and difference(found).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_divided_by_zero_at_the_ends(name: str) -> None:
    row = parameterisation_of(name)
    ends = torch.tensor([0.0, 1e-6, row.noisiest, 1.0])
    found = torch.stack([row.timestep(ends), row.input_scale(ends), *row.affine(ends)])
    assert found.isfinite().all() and torch.allclose(found[:, 2], found[:, 3], rtol=1e-6)


@pytest.mark.parametrize("kind", policy_names())
@pytest.mark.parametrize("name", NAMES)
def test_a_policy_of_copies_has_the_velocity_of_the_network_at_its_source(name: str, kind: str) -> None:
    row, grid = parameterisation_of(name), TimeGrid(2, 0.5, 3.2, parameterisation_of(name).noisiest)
    raw = torch.tensor([grid.edges[0], grid.edges[0], grid.edges[1], 0.1], dtype=torch.float64)
    x, prediction = X[:, :, None], torch.randn(4, 2, 1, 3, generator=seeded(2), dtype=torch.float64)
    parts = []
    for place, part in enumerate(policy_kind(kind).policy.layout(3, 2)):
        if place == 0:
            parts.append(prediction.repeat(1, 3, 1, 1))
            if kind == "dx-poly":
                parts[0][:, 2:] = 0
        else:
            parts.append(torch.zeros(4, 1 if part is None else part[0] * part[1], 1, 3, dtype=torch.float64))
    decoder = PolicyDecoder(kind, 3, 3.2, grid.segment, predicts=name)
    policy = decoder.policy(torch.cat(parts, dim=1), x, raw)
    expected = row.of_students(to_sigma(raw, 3.2)).velocity(prediction, x)
    torch.testing.assert_close(policy.velocity(x, raw), expected, rtol=1e-6, atol=1e-6)


def test_a_student_of_noise_has_its_teacher_s_velocity_but_where_errors_would_be_too_large() -> None:
    """x_0 near pure noise is a difference of two large numbers."""
    sigma = torch.tensor([0.0, 0.3, 0.5, 0.6, 0.93, 1.0])
    for name in NAMES:
        row = parameterisation_of(name)
        ours, theirs = row.of_students(sigma), row.affine(sigma)
        assert row.largest_gain == pytest.approx(ours.gain.abs()[-1].item())
        assert (ours.gain <= 2).all() and (ours.gain > 0).equal(theirs.gain > 0)
        same = 3 if name.startswith("epsilon") else len(sigma)
        torch.testing.assert_close(torch.stack(ours)[:, :same], torch.stack(theirs)[:, :same], rtol=0, atol=0)
        # A network that sees noise alone is right that there is nothing else: u = eps.
        if name.startswith("epsilon"):
            x = sigma[3:].double().clamp(max=row.noisiest).reshape(-1, 1)
            torch.testing.assert_close(Affine(*(value[3:] for value in ours)).velocity(torch.ones(3, 1), x), x * 0 + 1)
