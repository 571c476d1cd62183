"""Pickles of arrays, and what else may be in a pickle."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from piflow_cli.errors import RunError
from piflow_cli.weights.pickled_arrays import read_arrays

ARRAYS = {"first": [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32)], "none": []}


@given(
    st.dictionaries(
        st.text(max_size=5), st.lists(arrays(np.float32, array_shapes(max_dims=4, max_side=4)), max_size=3), max_size=3
    )
)
def test_arrays_of_float32_are_read_as_they_are(content: dict) -> None:
    found = read_arrays(pickle.dumps(content, 3))
    assert found.keys() == content.keys()
    for name, ours in found.items():
        assert [value.numpy().tobytes() for value in ours] == [value.tobytes() for value in content[name]]
        assert [tuple(value.shape) for value in ours] == [value.shape for value in content[name]]


def test_what_is_read_can_be_written_to() -> None:
    (first, _) = read_arrays(pickle.dumps(ARRAYS, 3))["first"]
    first += 1
    assert torch.equal(first, torch.arange(1, 7).float().reshape(2, 3))


class Planted:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("place", [lambda planted: planted, lambda planted: {"first": [planted]}])
def test_nothing_in_it_is_run(place, tmp_path: Path) -> None:
    content = pickle.dumps(place(Planted(tmp_path / "ran")), 3)
    with pytest.raises(RunError, match="which is no array of numbers"):
        read_arrays(content)
    assert not (tmp_path / "ran").exists()
    pickle.loads(content)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        [1.0],
        {"first": 1},
        {"first": [1.0]},
        {"first": [np.float32]},
        {"first": [np.ones(2)]},
        {"first": [np.ones(2, ">f4")]},
        {"first": [np.array([None])]},
        {"first": [np.asfortranarray(np.ones((2, 3), np.float32))]},
        {"first": [np.dtype(np.float32)]},
    ],
    ids=str,
)
def test_whatever_else_it_holds_is_refused(content: object) -> None:
    with pytest.raises(RunError, match="a pickle of arrays cannot be read"):
        read_arrays(pickle.dumps(content, 3))


@given(st.data())
def test_a_damaged_one_is_read_or_refused(data: st.DataObject) -> None:
    """A byte that is another, or an end that is missing: a flipped number is read, and no other error comes out."""
    content = bytearray(pickle.dumps(ARRAYS, 3))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    for part in (content, content[: data.draw(st.integers(0, len(content) - 1))]):
        try:
            found = read_arrays(bytes(part))
        except RunError:
            continue
        assert all(isinstance(value, torch.Tensor) for values in found.values() for value in values)


@pytest.mark.parametrize(
    "word", [b"r\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x00", b"B\xff\xff\xff\x7f", b"P1\n", b"\x82\x01"]
)
def test_words_that_would_fill_the_memory_or_ask_for_objects_are_refused(word: bytes) -> None:
    """The number of a place in two thousand million, bytes of that many, a persistent object and a registered one."""
    with pytest.raises(RunError, match="a pickle of arrays cannot be read"):
        read_arrays(b"\x80\x03}" + word + b".")
