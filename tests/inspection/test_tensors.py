"""Parts of a policy behave as they do in the whole, and there are no more of them than is said."""

from math import ceil, prod

import pytest
import torch
from helpers import random_dx, random_gm, random_momentum
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.inspection.kinds.anatomy import Anatomy, anatomy_of
from piflow_cli.inspection.teacher_policy import TeacherPolicy
from piflow_cli.inspection.tensors import MOST_POSITIONS, in_float64, position_of, stride, thin
from piflow_cli.sampling.trajectory import times

KINDS = {"gm": random_gm, "dx": random_dx, "momentum": random_momentum}


@given(st.integers(1, 300), st.lists(st.integers(1, 300), min_size=1, max_size=3))
def test_the_stride_is_the_smallest_odd_one_that_leaves_few_enough(batch: int, space: list[int]) -> None:
    def left(step: int) -> int:
        return batch * prod(ceil(side / step) for side in space)

    step = stride(batch, tuple(space))
    assert step % 2 == 1
    assert left(step) <= MOST_POSITIONS or left(step) == batch
    assert step == 1 or left(step - 2) > MOST_POSITIONS


def test_a_flux_sized_state_keeps_every_ninth_row_and_column_of_nine_samples() -> None:
    assert [stride(batch, (128, 128)) for batch in (1, 4, 9)] == [3, 7, 9]


@pytest.mark.parametrize("kind", KINDS)
def test_thin_positions_move_as_they_do_in_the_whole(kind: str) -> None:
    policy = KINDS[kind](2, 3, 2, (70, 66), dtype=torch.float32)
    step = stride(2, (70, 66))
    part = thin(policy)
    raw = times(0.4, policy.x_src)
    whole = policy.velocity(0.7 * policy.x_src, raw)
    assert step == 3 and part.x_src.shape == (2, 2, 24, 22)
    torch.testing.assert_close(part.velocity(0.7 * part.x_src, raw), whole[..., ::3, ::3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_position_moves_as_it_does_in_the_whole(kind: str) -> None:
    policy = KINDS[kind](3, 4, 2, (5, 6))
    raw = times(0.3, policy.x_src)
    whole = policy.velocity(0.6 * policy.x_src, raw)[1:2, :, 4:5, 2:3]
    part = position_of(policy, 1, (4, 2))
    torch.testing.assert_close(part.velocity(0.6 * part.x_src, raw[:1]), whole)
    many = part.repeated(5)
    torch.testing.assert_close(many.velocity(0.6 * many.x_src, times(0.3, many.x_src)), whole.expand(5, -1, -1, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_double_precision_holds_the_same_numbers(kind: str) -> None:
    policy = KINDS[kind](dtype=torch.float32)
    exact = in_float64(policy)
    raw = times(0.4, policy.x_src)
    assert exact.x_src.dtype == torch.float64
    torch.testing.assert_close(
        exact.velocity(exact.x_src, raw).float(), policy.velocity(policy.x_src, raw), rtol=1e-5, atol=1e-5
    )


def test_a_policy_without_a_row_has_no_anatomy_and_is_thinned_all_the_same() -> None:
    x = torch.zeros(1, 1, 128, 128)
    policy = TeacherPolicy(lambda x, sigma: x, x, times(1.0, x), 1.0)
    assert anatomy_of(policy) == Anatomy()
    assert thin(policy).x_src[0, 0].numel() <= MOST_POSITIONS
