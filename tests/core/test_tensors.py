"""One look at all values: nothing that is not finite passes, whatever its place and
dtype, and nothing that is finite is refused."""

from __future__ import annotations

import pytest
import torch

from piflow_cli.core.tensors import all_finite

WIDE = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2)
# Has no infinity.
NARROW = torch.float8_e4m3fn


@pytest.mark.parametrize("dtype", [*WIDE, NARROW])
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_one_value_that_is_not_finite_is_seen_anywhere(dtype: torch.dtype, bad: str) -> None:
    if dtype == NARROW and bad != "nan":
        pytest.skip("the dtype has no infinity")
    for place in range(12):
        values = torch.linspace(-3, 3, 12)
        assert all_finite(values.to(dtype).reshape(3, 4))
        values[place] = float(bad)
        assert not all_finite(values.to(dtype).reshape(3, 4))


@pytest.mark.parametrize("dtype", WIDE)
def test_the_largest_numbers_are_finite_though_their_sum_is_not(dtype: torch.dtype) -> None:
    largest = torch.full((5,), torch.finfo(dtype).max, dtype=torch.float64)
    assert all_finite(largest.to(dtype)) and all_finite((-largest).to(dtype))
    assert not all_finite(torch.tensor([float("inf"), -float("inf")]).to(dtype))


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2, dtype=torch.bool),
        torch.tensor([2**62]),
        torch.empty(0),
        torch.empty(0, 3, dtype=torch.float8_e5m2),
    ],
)
def test_whole_numbers_and_nothing_at_all_are_finite(value: torch.Tensor) -> None:
    assert all_finite(value)
