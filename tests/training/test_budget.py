"""From measured times to the length, batch and warm-up of a run: closed forms and what holds for all numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from piflow_cli.presets.resolve import load, resolve
from piflow_cli.training.budget import (
    ENOUGH,
    GAIN,
    MARGIN,
    SMALLEST,
    TOLERANCE,
    TooSmall,
    choose_plan,
    new_length,
    stretched,
)
from piflow_cli.training.optimizer import Stretch, learning_rate, progress_at
from piflow_cli.training.settings import batch_plan, least_device_batch, network_evaluations

DIGITS = load("digits").optimisation
seconds = st.floats(1e-3, 1e3)


def just(value: float):
    return lambda: value


def even(each: float):
    """Seconds of a round where a sample takes ``each``."""
    return lambda device_batch: each * device_batch


def test_a_long_budget_keeps_the_batch_and_the_warm_up_of_the_preset() -> None:
    plan = choose_plan(just(51.3), DIGITS, 1, lambda device_batch: 0.17)
    assert (plan.iterations, plan.warmup, plan.batch_size, plan.device_batch_size) == (301, 20, 128, None)


def test_a_short_one_takes_the_largest_smaller_batch_that_gives_five_warm_ups() -> None:
    # 128 samples take 1.28 s: 39 steps; 64 take 0.64: 78; 32 take 0.32: 156, and five warm-ups are 100.
    plan = choose_plan(just(50.0), DIGITS, 1, even(0.01))
    assert (plan.iterations, plan.batch_size, plan.warmup) == (156, 32, 15)
    assert choose_plan(just(130.0), DIGITS, 1, even(0.01)).batch_size == 128
    assert choose_plan(just(20.0), DIGITS, 1, even(0.01)).batch_size == 32 == 128 // SMALLEST


def test_a_batch_whose_steps_are_no_quicker_is_not_made_smaller() -> None:
    plan = choose_plan(just(10.0), DIGITS, 1, lambda device_batch: 0.1)
    assert (plan.iterations, plan.batch_size, plan.warmup) == (100, 128, 10)


def test_accumulated_rounds_count() -> None:
    flux = resolve("flux-dev", None, [], {"data.prompts": "x"}).optimisation
    plan = choose_plan(just(64 * 3.0 * 1000), flux, 1, lambda device_batch: 3.0 * device_batch)
    assert (plan.iterations, plan.batch_size, plan.device_batch_size, plan.seconds) == (1000, 64, 1, 192.0)
    assert choose_plan(just(64 * 3.0 * 499), flux, 1, even(3.0)).batch_size == 32
    assert choose_plan(just(64 * 3.0 * 499), flux, 8, even(3.0)).batch_size == 64


@given(seconds, seconds, st.floats(0, 10), st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([8, 24, 64, 96, 256]))
def test_a_plan_ends_in_time_and_can_be_run(left: float, each: float, fixed: float, processes: int, batch: int) -> None:
    assume(batch % processes == 0)
    settings = replace(DIGITS, batch_size=batch, device_batch_size=None)
    try:
        plan = choose_plan(just(left), settings, processes, lambda device_batch: fixed + each * device_batch)
    except TooSmall as error:
        again = choose_plan(just(error.seconds), settings, processes, lambda device_batch: fixed + each * device_batch)
        assert again.iterations >= DIGITS.warmup
        return
    assert plan.iterations * plan.seconds <= left * (1 + 1e-9)
    assert DIGITS.warmup <= plan.iterations and 1 <= plan.warmup <= max(1, plan.iterations // 10)
    assert batch // SMALLEST <= plan.batch_size <= batch
    applied = plan.applied(replace(load("digits"), optimisation=settings))
    assert batch_plan(applied, processes).device_batch == plan.batch_size // processes
    if plan.batch_size < batch:
        whole = fixed + each * batch / processes
        assert GAIN * plan.seconds <= whole * (1 + 1e-9) and left < ENOUGH * DIGITS.warmup * whole


@given(
    st.floats(5, 1e3), st.sampled_from([1, 2, 4]), st.sampled_from([8, 12, 24, 64]), st.sampled_from([None, 2, 4, 6])
)
def test_distances_to_data_have_samples_to_compare_in_a_plan(
    left: float, processes: int, batch: int, wanted: int | None
) -> None:
    best = resolve("digits", None, [], {"imitation.energy": 0.1, "optimisation.batch_size": batch})
    preset = replace(best, optimisation=replace(best.optimisation, device_batch_size=wanted, warmup=2))
    assume(batch % (processes * (wanted or 1)) == 0)
    plan = choose_plan(just(left), preset.optimisation, processes, even(0.01), least_device_batch(preset))
    # It refuses a device batch of 1.
    assert batch_plan(plan.applied(preset), processes).device_batch >= 2


@given(seconds, seconds, seconds)
def test_more_time_never_means_a_smaller_batch_or_fewer_than_five_warm_ups(
    left: float, more: float, each: float
) -> None:
    try:
        small = choose_plan(just(left), DIGITS, 1, even(each))
    except TooSmall:
        return
    large = choose_plan(just(left + more), DIGITS, 1, even(each))
    assert large.batch_size >= small.batch_size
    assert min(large.iterations, 5 * DIGITS.warmup) >= min(small.iterations, 5 * DIGITS.warmup)


def test_a_budget_without_room_for_a_warm_up_says_what_has_room() -> None:
    with pytest.raises(TooSmall) as caught:
        choose_plan(just(1.0), DIGITS, 1, even(0.01))
    assert caught.value.seconds == pytest.approx(MARGIN * 0.32 * 20)


def test_trajectory_mixing_takes_the_same_part_of_the_run() -> None:
    flux = resolve("flux-dev", None, [], {"data.prompts": "x", "optimisation.budget": "2d"})
    plan = choose_plan(just(192.0 * 1500), flux.optimisation, 1, even(3.0))
    applied = plan.applied(flux)
    assert (applied.optimisation.iterations, applied.imitation.mixing_iterations) == (1500, 1000)
    assert applied.optimisation.schedule == "cosine" and applied.optimisation.budget == "2d"
    assert replace(plan, iterations=9000).applied(flux).imitation.mixing_iterations == 2000


@given(st.integers(1, 1000), st.integers(1, 1000), seconds, seconds)
def test_a_length_changes_where_the_end_is_off_and_then_it_is_not(
    done: int, rest: int, left: float, each: float
) -> None:
    budget = left * 2
    found = new_length(done, done + rest, left, each, budget)
    if abs(rest * each - left) <= TOLERANCE * budget:
        assert found is None
    elif found is not None:
        assert found > done and ((found - done) * each <= left * (1 + 1e-9) or found == done + 1)
        assert left - (found - done) * each < each * (1 + 1e-9)


@given(st.integers(0, 50), st.lists(st.tuples(st.integers(1, 200), st.integers(1, 300)), max_size=4))
def test_the_rate_goes_on_from_where_it_is_and_ends_at_zero(warmup: int, changes: list[tuple[int, int]]) -> None:
    stretches, length, iteration = (Stretch(warmup, 0.0, warmup + 300),), warmup + 300, 0
    for ahead, rest in changes:
        iteration = min(iteration + ahead, length - 1)
        before = progress_at(iteration, stretches)
        stretches, length = stretched(stretches, iteration, iteration + rest), iteration + rest
        assert progress_at(iteration, stretches) == before
        length = max(length, stretches[-1].end)
    assert progress_at(stretches[-1].end, stretches) == 1
    course = [progress_at(index, stretches) for index in range(stretches[-1].end + 1)]
    assert course == sorted(course) and course[0] == 0


def test_a_schedule_of_one_stretch_is_the_cosine() -> None:
    rates = [learning_rate(index, DIGITS) for index in range(200)]
    assert rates == [learning_rate(index, DIGITS, (Stretch(20, 0.0, 200),)) for index in range(200)]
    assert rates[110] == pytest.approx(DIGITS.learning_rate / 2)


@pytest.mark.parametrize(
    ("name", "settings", "each"),
    [
        # 128 samples: 1 forward, 2 for backward, 2 states.
        ("digits", {}, 128 * 5),
        ("digits", {"teacher.guidance": 2.0}, 128 * 7),
        ("digits", {"policy.nfe": 4}, 128 * 5),
        ("digits", {"policy.nfe": 4, "imitation.data_free": True}, 128 * 4 * 5),
        # 64 trajectories of 4 segments, computed again in the backward pass, 4 states, guidance embedded.
        ("flux-dev", {}, 64 * 4 * 8),
        # 2 states under classifier-free guidance.
        ("qwen-image", {}, 64 * 4 * 8),
        # 2 states, guided in 0.7 and in 0.6 of the time.
        ("imagenet-repa", {}, 4096 * 4 + round(4096 * 2 * 1.7)),
        ("imagenet-fm", {}, 4096 * 4 + round(4096 * 2 * 1.6)),
    ],
)
def test_network_evaluations_of_an_iteration(name: str, settings: dict, each: int) -> None:
    prompts = {} if name == "digits" or name.startswith("imagenet") else {"data.prompts": "x"}
    assert network_evaluations(resolve(name, None, [], settings | prompts)) == each
