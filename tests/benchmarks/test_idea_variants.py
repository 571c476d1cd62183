"""The ideas that need code: switched to neutral they are the published recipe, and all of them train."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import claims_diffusion
import claims_video
import pytest
import torch
from claim_runs import Study
from claim_table import Arm
from idea_table import IDEAS, Idea
from idea_variants import LARGEST, TYPICAL, VARIANTS, apply
from policy_cases import gm_policy
from torch import Tensor
from variants import draws, pieces, substeps, walks, weights

from piflow_cli.core import draws as core_draws
from piflow_cli.core.constants import ImitationConfig
from piflow_cli.core.parameterisations.kinds import parameterisation_of
from piflow_cli.core.policies.gmflow import GMFlowPolicy
from piflow_cli.core.tensors import per_sample
from piflow_cli.core.timegrid import TimeGrid
from piflow_cli.data.labelled_images import load_images
from piflow_cli.training import loop
from piflow_cli.weights.locate import locate

SHAPE = (6, 1, 2, 2)
CONFIG = ImitationConfig(TimeGrid(1), states=2, window=5, dropout=0.3, components=4, loss_scale=3.0)


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # What a test has patched comes back after what its variant has.
    del monkeypatch
    yield
    pieces.undo()


def loss_and_gradient(config: ImitationConfig = CONFIG) -> tuple[Tensor, Tensor]:
    """What a student whose mixture is given loses in one step, as the loop draws it, and the gradient of its means."""
    random, given = torch.Generator().manual_seed(0), gm_policy(SHAPE, 4, shift=1.0)
    torch.manual_seed(0)
    means = given.means.clone().requires_grad_()

    def student(x: Tensor, raw: Tensor) -> GMFlowPolicy:
        return GMFlowPolicy(means, given.logweights, given.logstds, x, raw)

    def teacher(x: Tensor, sigma: Tensor) -> Tensor:
        return x.sin() * per_sample(1 + sigma, x)

    drawn = loop.draw_start(SHAPE, config.grid, random), loop.draw_segment(SHAPE[0], config, random)
    x_0 = torch.zeros(SHAPE, dtype=torch.float64)
    loss = loop.data_dependent_loss(student, teacher, x_0, config, draws=drawn)
    loss.backward()
    assert means.grad is not None
    return loss.detach(), means.grad


@pytest.mark.parametrize(
    "neutral",
    [
        partial(weights.weighted, weights.even),
        partial(draws.denser, 1.0),
        partial(draws.elastic, (1,)),
        partial(walks.rollouts, 1),
        partial(substeps.reaching_ahead, 0.0),
    ],
    ids=lambda neutral: neutral.func.__name__,
)
def test_a_variant_that_changes_nothing_is_the_published_recipe(neutral: Callable[[], None]) -> None:
    loss, gradient = loss_and_gradient()
    neutral()
    again, its_gradient = loss_and_gradient()
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(its_gradient, gradient)


def test_an_answer_that_is_used_twice_at_one_place_counts_once() -> None:
    config = ImitationConfig(TimeGrid(1), states=1, window=5, dropout=0.3, components=4, loss_scale=3.0)
    loss, gradient = loss_and_gradient(config)
    walks.neighbours(0)
    again, its_gradient = loss_and_gradient(config)
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(its_gradient, gradient)


def test_gradients_through_the_path_leave_the_loss_as_it_is() -> None:
    loss, gradient = loss_and_gradient()
    walks.through()
    again, its_gradient = loss_and_gradient()
    torch.testing.assert_close(again, loss)
    assert not torch.allclose(its_gradient, gradient)


def trajectory_gradients() -> tuple[list[float], list[Tensor]]:
    """What two segments of a trajectory from noise lose, and the gradients of the means of each one's policy."""
    config = ImitationConfig(TimeGrid(2), states=2, window=5, dropout=0.3, components=4, loss_scale=3.0)
    given = gm_policy(SHAPE, 4, shift=1.0)
    means = [given.means.clone().requires_grad_() for _ in range(2)]
    left = iter(means)

    def student(x: Tensor, raw: Tensor) -> GMFlowPolicy:
        return GMFlowPolicy(next(left), given.logweights, given.logstds, x, raw)

    def teacher(x: Tensor, sigma: Tensor) -> Tensor:
        return x.sin() * per_sample(1 + sigma, x)

    random = torch.Generator().manual_seed(0)
    noise = torch.randn(SHAPE, generator=random, dtype=torch.float64)
    drawn = core_draws.draw_segments(SHAPE[0], config, random)
    lost = []
    for loss in loop.data_free_losses(student, teacher, noise, config, draws=drawn):
        loss.backward()
        lost.append(loss.item())
    return lost, [own.grad for own in means if own.grad is not None]


def test_gradients_over_segments_reach_the_first_from_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without dropout, by which a walk leaves the policy that it is of.
    monkeypatch.setattr(GMFlowPolicy, "without", lambda policy, dropped: policy)
    lost, (first, second) = trajectory_gradients()
    walks.over_segments()
    again, (its_first, its_second) = trajectory_gradients()
    # A walk that stops at the states that it visits has other substeps than one that does not.
    assert again == pytest.approx(lost, rel=1e-4)
    torch.testing.assert_close(its_second, second, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(its_first, first, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("weight", [weights.reaching(LARGEST), weights.reaching(TYPICAL), weights.of_x_0_below(0.5)])
def test_weights_are_one_in_the_mean(weight: weights.Weight) -> None:
    count = 100_000
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    assert weight(middles).mean().item() == pytest.approx(1, rel=1e-4)


def test_the_spreads_are_those_of_the_shipped_digits() -> None:
    values = load_images(locate("preset:digits/images.safetensors"))[0].flatten(1).double()
    variances = torch.linalg.eigvalsh(values.T.cov(correction=0))
    assert variances.mean().sqrt().item() == pytest.approx(TYPICAL, abs=0.005)
    assert variances.max().sqrt().item() == pytest.approx(LARGEST, abs=0.005)


def test_what_of_an_error_reaches_the_end_is_what_the_flow_of_a_gaussian_leaves() -> None:
    """dx / dsigma = (sigma - (1 - sigma) std^2) x / r^2, integrated from an error of one at sigma to 0."""
    std, level = 0.54, 0.7
    sigmas = torch.linspace(level, 0, 20_001, dtype=torch.float64)
    middles = (sigmas[1:] + sigmas[:-1]) / 2
    slopes = (middles - (1 - middles) * std**2) / ((1 - middles) ** 2 * std**2 + middles**2)
    left = (slopes * sigmas.diff()).sum().exp()
    weight = weights.reaching(std)
    ratio = weight(sigmas[:1]) / weight(sigmas[-1:])
    assert ratio.item() == pytest.approx(left.item() ** 2, rel=1e-6)


def test_ends_are_those_of_the_teacher_s_steps() -> None:
    """A teacher that answers c moves the state by c over the whole path, and so does a policy that is it."""
    config = ImitationConfig(TimeGrid(1), states=8, states_per_query=1, loss_scale=3.0)
    walks.ends()
    asked = []

    def student(x: Tensor, raw: Tensor) -> GMFlowPolicy:
        policy = gm_policy(SHAPE, 1, shift=1.0)
        # A component without width: its x_0 is x_src - u at sigma 1, whatever the state.
        means, logstds = torch.full_like(policy.means, 0.5), torch.full_like(policy.logstds, -20)
        return GMFlowPolicy(means, policy.logweights, logstds, x, raw)

    def teacher(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(sigma)
        return torch.full_like(x, 0.2)

    x_0 = torch.zeros(SHAPE, dtype=torch.float64)
    loss = loop.data_dependent_loss(student, teacher, x_0, config)
    assert len(asked) == 8 and loss.item() == pytest.approx(3 / 2 * 0.3**2)


def test_elastic_students_see_the_segments_of_all_lengths() -> None:
    draws.elastic((1, 2, 4))
    found = loop.draw_start((3000, 1), TimeGrid(4), torch.Generator().manual_seed(0))
    shares = {length: (found.length == length).double().mean().item() for length in (1.0, 0.5, 0.25)}
    assert shares == pytest.approx(dict.fromkeys(shares, 1 / 3), abs=0.04)
    assert set(found.raw.tolist()) == {1.0, 0.75, 0.5, 0.25}


def test_every_idea_s_variant_is_there_and_every_variant_is_an_idea_s() -> None:
    of_claims = {arm.variant for claim in claims_diffusion.CLAIMS for arm in claim.arms.values()}
    told = {idea.variant for idea in IDEAS} | of_claims | {claims_video.APART}
    assert told - {None} == VARIANTS.keys()


def test_a_bound_on_errors_is_replaced_for_students_alone() -> None:
    row, sigma = parameterisation_of("epsilon-linear"), torch.tensor([0.9, 0.99])
    teacher, own = row.affine(sigma), row.of_students(sigma)
    try:
        apply("gain-16")
        assert row.of_students(sigma).gain.tolist() == [teacher.gain[0].item(), 16.0]
        assert torch.equal(row.affine(sigma).gain, teacher.gain) and row.largest_gain == 16
    finally:
        pieces.undo()
    assert torch.equal(row.of_students(sigma).gain, own.gain) and own.gain.tolist() == [2.0, 2.0]


def first_of_each_variant() -> list[Idea]:
    ideas = {idea.variant: idea for idea in reversed(IDEAS) if idea.variant is not None}
    return [*reversed(ideas.values()), *(idea for idea in IDEAS if idea.begins_at is not None)]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a study train and measure in this process, which has imported all that it needs."""

    def make_apart(study: Study, arm: Arm, seed: int) -> None:
        assert arm.variant is not None
        apply(arm.variant)
        try:
            study.make(arm, seed)
        finally:
            pieces.undo()

    monkeypatch.setattr(Study, "_make_apart", make_apart)


@pytest.mark.long
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("idea", first_of_each_variant(), ids=lambda idea: idea.name)
def test_every_variant_trains_at_the_cost_that_it_states(idea: Idea, tmp_path: Path) -> None:
    study = Study(tmp_path, shorter=2, images=16)
    found = study.figures(idea.arm, 0)
    assert all(math.isfinite(value) for value in found.values())
    rows = (study.folder(idea.arm, 0) / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["evaluations"] == 2 * idea.evaluations


@pytest.mark.long
def test_a_variant_has_processes_of_its_own(tmp_path: Path) -> None:
    study, arm = Study(tmp_path, shorter=1, images=16), Arm(variant="denser-near-data")
    assert study.figures(arm, 0).keys() == {"to_data", "by_classifier", "to_teacher", "squared_distance"}
    assert loop.draw_segment is core_draws.draw_segment
