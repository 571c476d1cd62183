"""pi-ID against losses worked out by hand, and its random choices against what they should be."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import MixtureFlow, random_gm, seeded
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.core.constants import ImitationConfig
from piflow_cli.core.draws import draw_segment, draw_segments, draw_start
from piflow_cli.core.imitation import (
    Segment,
    cut_intervals,
    data_dependent_loss,
    data_free_losses,
    query_sigmas,
    segment_loss,
    teacher_ratio,
)
from piflow_cli.core.policies.dx import DXPolicy
from piflow_cli.core.rollout import rollout
from piflow_cli.core.timegrid import TimeGrid, to_sigma

FLOW = MixtureFlow(torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.0]]), torch.tensor([0.2, 0.5, 0.3]), 0.3)


def constant_student(target: float):
    """A policy that always expects x_0 = target: its paths are straight lines."""

    def student(x: torch.Tensor, raw: torch.Tensor) -> DXPolicy:
        sigma = raw.reshape(-1, *[1] * (x.ndim - 1))
        return DXPolicy(((x - target) / sigma).unsqueeze(1), x, raw, segment=1.0)

    return student


def constant_teacher(target: float):
    return lambda x, sigma: (x - target) / sigma.reshape(-1, *[1] * (x.ndim - 1))


def test_data_free_losses_of_two_steps_equal_the_hand_computed_ones() -> None:
    """Student expects 0, teacher expects 1: at sigma the velocities differ by 1/sigma, whatever the state.

    Two segments of half a unit, one state each at sigma_i = s_i - g_i: the loss is 1/2 scale (1/2) sum 1/sigma_i^2.
    """
    config = ImitationConfig(TimeGrid(2), states=1, loss_scale=3.0)
    noise = torch.randn(4, 1, 2, generator=seeded(), dtype=torch.float64)
    losses = list(
        data_free_losses(
            constant_student(0.0), constant_teacher(1.0), noise, config, draws=draw_segments(4, config, seeded(5))
        )
    )
    generator = seeded(5)
    for loss, source in zip(losses, (1.0, 0.5), strict=True):
        gap = 0.5 * torch.rand(1, 4, generator=generator, dtype=torch.float64)[0]
        assert loss.item() == pytest.approx(0.5 * (3 / 2) * (source - gap).pow(-2).mean().item())


def test_data_free_segments_start_where_the_policy_ended() -> None:
    """A straight path to 0 scales the noise: after half of raw time x = noise / 2."""
    starts = []

    def student(x, raw):
        starts.append(x)
        return constant_student(0.0)(x, raw)

    noise = torch.randn(3, 1, 2, generator=seeded(), dtype=torch.float64)
    config = ImitationConfig(TimeGrid(2))
    list(data_free_losses(student, constant_teacher(1.0), noise, config, draws=draw_segments(3, config, seeded())))
    torch.testing.assert_close(starts[1], noise / 2)


def test_data_dependent_and_data_free_losses_agree_on_a_two_step_case() -> None:
    """The mean over drawn segments is the sum over all of them, each weighted by its length.

    For velocities that depend on sigma alone both are integrals of 1/(2 sigma^2) over the gaps, estimated by sampling.
    """
    config = ImitationConfig(TimeGrid(2, 0.5), states=2, loss_scale=1.0)
    student, teacher = constant_student(0.0), bounded_teacher
    shape = (60_000, 1)
    draws = draw_start(shape, config.grid, seeded(1)), draw_segment(shape[0], config, seeded(3))
    dependent = data_dependent_loss(student, teacher, torch.zeros(shape, dtype=torch.float64), config, draws=draws)
    noise = torch.zeros(shape, dtype=torch.float64)
    free = sum(data_free_losses(student, teacher, noise, config, draws=draw_segments(shape[0], config, seeded(2))))
    segment = 2 / 3
    # E[sigma] is a segment's middle and E[sigma^2] follows from its uniform gaps; the velocities differ by sigma.
    exact = (
        sum(
            length * (source**3 - (source - length) ** 3) / 3 / length
            for source, length in ((1, segment), (1 / 3, 1 / 3))
        )
        / 2
    )
    assert dependent.item() == pytest.approx(exact, rel=0.02)
    assert free.item() == pytest.approx(exact, rel=0.02)


def bounded_teacher(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Off the constant student (at x = 0: velocity 0) by sigma."""
    return x / sigma.reshape(-1, 1) + sigma.reshape(-1, 1)


def test_sources_of_noised_data_lie_on_the_grid_and_are_noised_to_their_level() -> None:
    grid = TimeGrid(3, 0.5, shift=3.2)
    seen = {}

    def student(x, raw):
        seen.update(x=x, raw=raw)
        return constant_student(0.0)(x, raw)

    x_0 = torch.full((30_000, 1), 4.0, dtype=torch.float64)
    config = ImitationConfig(grid, states=1)
    draws = draw_start(x_0.shape, grid, seeded()), draw_segment(len(x_0), config, seeded())
    data_dependent_loss(student, constant_teacher(0.0), x_0, config, draws=draws)
    for edge, share in zip(grid.edges, (0.4, 0.4, 0.2)):
        drawn = seen["raw"] == edge
        assert drawn.double().mean().item() == pytest.approx(share, abs=0.01)
        sigma = to_sigma(edge, 3.2)
        assert seen["x"][drawn].mean().item() == pytest.approx(4 * (1 - sigma), abs=0.05)
        assert seen["x"][drawn].std().item() == pytest.approx(sigma, rel=0.03)


@given(st.integers(1, 5), st.integers(0, 10), st.floats(0, 1), st.floats(0.01, 1), st.integers(0, 99))
def test_intervals_fit_into_their_segment(states: int, window: int, ratio: float, length: float, seed: int) -> None:
    config = ImitationConfig(TimeGrid(1), states=states, window=window)
    lengths = torch.tensor([length, length / 2], dtype=torch.float64)
    intervals = cut_intervals(lengths, config, ratio, draw_segment(2, config, seeded(seed)))
    substep = lengths / (lengths * 128).round().clamp(min=1)
    torch.testing.assert_close(intervals.window, torch.minimum(window * substep, lengths))
    free = lengths - intervals.window
    assert (intervals.gaps >= 0).all() and (intervals.moves >= 0).all()
    torch.testing.assert_close(intervals.moves.sum(0), ratio * free)
    assert (intervals.gaps.sum(0) <= (1 - ratio) * free + 1e-12).all()


def test_the_teacher_hands_over_linearly() -> None:
    assert [teacher_ratio(it, 2000) for it in (0, 500, 2000, 9999)] == [1.0, 0.75, 0.0, 0.0]
    assert teacher_ratio(0, 0) == 0.0


def exact_student(x, raw):
    return FLOW.policy(x, raw.double())


def exact_teacher(x, sigma):
    return FLOW.velocity(x, sigma)


def asked_teacher():
    """The exact teacher, and the list of what it is asked."""
    asked = []

    def teacher(x, sigma):
        asked.append((x, sigma))
        return exact_teacher(x, sigma)

    return teacher, asked


@pytest.mark.parametrize("ratio", [0.0, 0.4, 1.0])
def test_a_student_that_knows_the_teachers_flow_has_no_loss(ratio: float) -> None:
    config = ImitationConfig(TimeGrid(2), states=3, window=0)
    noise = torch.randn(16, 2, 2, generator=seeded(), dtype=torch.float64)
    draws = draw_segments(16, config, seeded())
    losses = list(data_free_losses(exact_student, exact_teacher, noise, config, ratio, draws))
    if ratio == 0:
        assert sum(losses).item() < 1e-12
    else:
        # With mixing the answer is compared with a mean over the teacher's whole move: equal up to curvature only.
        assert 0 < sum(losses).item() < 1


def test_with_mixing_the_state_moves_along_the_teachers_answer() -> None:
    """Ratio 1: no policy gaps, so every state lies on Euler steps of the teacher from the source."""
    teacher, asked = asked_teacher()
    x = torch.randn(4, 2, 3, generator=seeded(), dtype=torch.float64)
    one = torch.ones(4, dtype=torch.float64)
    config = ImitationConfig(TimeGrid(1), states=3)
    segment_loss(constant_student(0.0), teacher, Segment(x, one, one), config, 1.0)
    assert len(asked) == 3
    torch.testing.assert_close(asked[0][0], x)
    for (state, sigma), (following, sigma_next) in pairwise(asked):
        step = (sigma_next - sigma).reshape(-1, 1, 1)
        torch.testing.assert_close(following, state + exact_teacher(state, sigma) * step)


def test_without_mixing_states_are_the_policys_own_and_asked_for_at_once() -> None:
    teacher, calls = asked_teacher()
    x = torch.randn(2, 2, 3, generator=seeded(), dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    config = ImitationConfig(TimeGrid(1), states=4)
    segment_loss(exact_student, teacher, Segment(x, one, one), config, 0.0)
    assert [call[0].shape[0] for call in calls] == [8]
    states, sigmas = calls[0][0].chunk(4), calls[0][1].chunk(4)
    here, at = x, one
    for state, sigma in zip(states, sigmas):
        here = rollout(exact_student(x, one), here, at, sigma)
        torch.testing.assert_close(state, here)
        at = sigma
    calls.clear()
    draws = draw_segment(2, config, seeded(3))
    loss_all, _ = segment_loss(exact_student, teacher, Segment(x, one, one), config, 0.0, draws)
    calls.clear()
    loss_three, _ = segment_loss(
        exact_student, teacher, Segment(x, one, one), replace(config, states_per_query=3), 0.0, draws
    )
    assert [call[0].shape[0] for call in calls] == [6, 2]
    torch.testing.assert_close(loss_all, loss_three)


@given(st.floats(0, 1), st.integers(0, 4), st.integers(1, 4), st.integers(0, 5), st.integers(0, 99))
def test_what_the_teacher_is_asked_follows_from_the_draws(
    ratio: float, per_query: int, states: int, window: int, seed: int
) -> None:
    teacher, asked = asked_teacher()
    config = ImitationConfig(TimeGrid(2, 0.5, 3.2), states=states, window=window, states_per_query=per_query)
    raw, length = config.grid.enclosing(torch.tensor([1.0, 0.2], dtype=torch.float64))
    x, draws = torch.randn(2, 2, 3, generator=seeded(seed), dtype=torch.float64), draw_segment(2, config, seeded(seed))
    segment_loss(exact_student, teacher, Segment(x, raw, length), config, ratio, draws)
    expected = query_sigmas(raw, length, config, ratio, draws)
    assert len(asked) == len(expected) and all(torch.equal(one, other) for (_, one), other in zip(asked, expected))


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_gradients_of_the_loss_match_finite_differences(ratio: float) -> None:
    """Only the policy's parameters carry gradient: the walk and the teacher's answers are held where they were."""
    base = random_gm(batch=2, components=2, channels=2, space=(2,), raw_src=1.0, logstd=-1.0)
    config = ImitationConfig(TimeGrid(1), states=2, window=3, substeps=16)

    def loss(means, logweights, logstds):
        policy = Frozen(means, logweights, logstds, base.x_src, base.raw_src)
        segment = Segment(base.x_src, base.raw_src, base.raw_src)
        return segment_loss(lambda x, raw: policy, exact_teacher, segment, config, ratio, draws)[0]

    draws = draw_segment(2, config, seeded())

    class Frozen(type(base)):
        def without(self, dropped):
            return base

    leaves = [value.clone().requires_grad_() for value in (base.means, base.logweights, base.logstds)]
    assert torch.autograd.gradcheck(loss, leaves)


def test_dropout_touches_the_walk_and_not_the_policy_that_learns() -> None:
    walked = []
    base = random_gm(batch=2, components=4, raw_src=1.0)

    class Watched(type(base)):
        def without(self, dropped):
            walked.append(dropped)
            return super().without(dropped)

    policy = Watched(base.means.clone().requires_grad_(), base.logweights, base.logstds, base.x_src, base.raw_src)
    config = ImitationConfig(TimeGrid(1), states=2, dropout=0.3, components=4)
    draws = draw_segment(2, config, seeded())
    segment = Segment(base.x_src, base.raw_src, base.raw_src)
    loss, _ = segment_loss(lambda x, raw: policy, lambda x, s: torch.zeros_like(x), segment, config, 0.0, draws)
    loss.backward()
    assert walked == [draws.dropped] and draws.dropped.any()
    assert policy.means.grad.abs().sum((0, 2, 3, 4)).gt(0).all()
    assert policy.dropped is None


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("states", [1, 2, 4])
def test_the_windows_of_a_segment_are_one_call_of_the_rollout(monkeypatch, states: int, ratio: float) -> None:
    """However many they are, and whether the teacher walks between them."""
    from piflow_cli.core.kernels import gm

    asked, whole = [], gm.mean_velocity

    def counted(policy, x, *given):
        asked.append(len(x))
        return whole(policy, x, *given)

    monkeypatch.setattr(gm, "mean_velocity", counted)
    policy = random_gm(3, 2, 2, (2,), raw_src=1.0)
    config = ImitationConfig(TimeGrid(1), states=states, window=3)
    segment = Segment(policy.x_src, policy.raw_src, policy.raw_src)
    segment_loss(lambda x, raw: policy, exact_teacher, segment, config, ratio)
    assert asked == [3 * states]
