"""Pickled checkpoints that lie about their size, or hold what is no tensor:
one line, and the memory stays as it was."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from piflow_cli.errors import PiflowError, RunError
from piflow_cli.weights.pickled import MOST_SHARED, read_pickled
from piflow_cli.weights.stored import StoredWeights


def packed_again(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))


def compressed(path: Path) -> None:
    torch.save({"a": torch.zeros(1_000_000)}, path)
    packed_again(path, lambda name, data: data, zipfile.ZIP_DEFLATED)


def lying_storage(path: Path) -> None:
    torch.save({"a": torch.arange(5.0)}, path)
    # The pickle's small integer 5 becomes one of four bytes.
    packed_again(
        path, lambda name, data: data.replace(b"K\x05", b"J\x00\x00\x00\x70") if name.endswith("data.pkl") else data
    )


def repeated(path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**12)}, path)


def shared(path: Path) -> None:
    value = torch.zeros(100_000)
    torch.save({f"a{number}": value for number in range(MOST_SHARED + 2)}, path)


def sparse(path: Path) -> None:
    torch.save({"a": torch.zeros(3, 3).to_sparse()}, path)


def without_values(path: Path) -> None:
    torch.save({"a": torch.empty(10**12, device="meta")}, path)


def not_a_tensor(path: Path) -> None:
    torch.save({"a": Path("x")}, path)


BOMBS = {
    compressed: "would unpack to 4,000,",
    lying_storage: "it is damaged, or holds more than tensors",
    repeated: "its a (1000000000000,) is larger than what the file holds of it",
    shared: "its a4 (100000,) is larger than what the file holds of it",
    sparse: "its a is no plain tensor",
    without_values: "its a is no plain tensor",
    not_a_tensor: "it is damaged, or holds more than tensors",
}


@pytest.mark.filterwarnings("ignore:.*parse .*invariant")
@pytest.mark.parametrize("make", BOMBS, ids=lambda make: make.__name__)
def test_what_would_fill_the_memory_is_refused_in_one_line(make, tmp_path):
    path = tmp_path / "bomb.pt"
    make(path)
    for read in (read_pickled, StoredWeights):
        with pytest.raises(RunError) as caught:
            read(path)
        assert BOMBS[make] in caught.value.message and "\n" not in caught.value.message and caught.value.hint


@pytest.mark.parametrize("zipped", [True, False])
def test_tied_and_transposed_tensors_are_read(zipped, tmp_path):
    value = torch.arange(6.0).reshape(2, 3)
    torch.save(
        {"module.a": value, "b": value, "c": value.T, "d": value[:, 1]},
        tmp_path / "a.pt",
        _use_new_zipfile_serialization=zipped,
    )
    found = read_pickled(tmp_path / "a.pt")
    assert (
        found.keys() == {"a", "b", "c", "d"}
        and torch.equal(found["c"], value.T)
        and torch.equal(found["d"], value[:, 1])
    )


@pytest.mark.parametrize("position", range(0, 100, 7))
def test_a_checkpoint_with_a_flipped_bit_never_ends_in_a_traceback(position, tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(8.0)}, path)
    data = bytearray(path.read_bytes())
    data[position * len(data) // 100] ^= 1 << position % 8
    path.write_bytes(data)
    try:
        found = read_pickled(path)
    except PiflowError as error:
        assert "\n" not in error.message
    else:
        # A bit of a value, or of what torch writes and does not read.
        assert all(isinstance(value, torch.Tensor) for value in found.values())


def test_a_bomb_as_a_base_ends_in_two_lines(cli, tiny_teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    repeated(tmp_path / "bomb.pt")
    outcome = cli(
        "sample",
        "--teacher",
        str(tiny_teacher),
        "--base",
        str(tmp_path / "bomb.pt"),
        "--seeds",
        "0",
        "--output",
        str(tmp_path / "out"),
    )
    assert (
        outcome.code == 1 and "is larger than what the file holds" in outcome.err and len(outcome.err.splitlines()) == 2
    )
    assert not list(tmp_path.rglob("*.safetensors"))
