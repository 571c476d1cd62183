"""Values that are not finite are seen wherever they are, and nests of tensors arrive on a device as they were."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from helpers import seeded
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.core import tensors
from piflow_cli.core.tensors import all_finite, to_device

WIDE = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2)
# Has no infinity.
NARROW = torch.float8_e4m3fn


@pytest.mark.parametrize(
    ("dtype", "bad"), [(NARROW, "nan"), *((dtype, bad) for dtype in WIDE for bad in ("nan", "inf", "-inf"))]
)
def test_one_value_that_is_not_finite_is_seen_anywhere(dtype: torch.dtype, bad: str) -> None:
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


dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool])
sizes = st.lists(st.integers(0, 3), max_size=3)


@given(st.lists(st.tuples(dtypes, sizes), max_size=5))
def test_tensors_that_are_copied_together_arrive_as_they_were(kinds: list) -> None:
    """The way to a GPU, taken on the CPU, which has no memory to pin."""
    sent = [torch.randint(0, 2, size, generator=seeded(place)).to(dtype) for place, (dtype, size) in enumerate(kinds)]
    with pytest.MonkeyPatch.context() as patch:
        empty = torch.empty
        patch.setattr(torch, "empty", lambda *size, pin_memory, **options: empty(*size, **options))
        arrived = tensors._copied_together(sent, torch.device("cpu"))
    for one, other in zip(arrived, sent, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


def test_a_nest_keeps_its_shape_and_what_is_named_stays() -> None:
    class Pair(NamedTuple):
        first: torch.Tensor
        second: torch.Tensor | None

    here = torch.ones(2)
    pair, told, empty = to_device((Pair(here, None), {"mask": here, "text": here}, ()), torch.device("meta"), ("mask",))
    assert isinstance(pair, Pair) and pair.first.is_meta and pair.second is None and empty == ()
    assert told["mask"] is here and told["text"].is_meta
