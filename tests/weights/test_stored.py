"""Tensors on disk: the same whatever their prefix and however many files they lie in."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from piflow_cli.errors import RunError
from piflow_cli.weights.stored import PREFIX, StoredWeights

NAMES = ("proj_out.weight", "a.lora_A.weight", "a.lora_B.weight", "norm.bias", "scalar")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 3), (2, 3), (4, 2), (5,), ())
    return {
        name: torch.randn(shape, generator=generator).to(DTYPES[number % 3])
        for number, (name, shape) in enumerate(zip(NAMES, shapes))
    }


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=len(NAMES), max_size=len(NAMES)))
def test_shards_and_prefixes_make_no_difference(places: list[tuple[int, bool]]) -> None:
    expected = tensors()
    with TemporaryDirectory() as folder:
        shards: dict[str, dict[str, torch.Tensor]] = {}
        for name, (shard, prefixed) in zip(NAMES, places):
            shards.setdefault(f"part-{shard}.safetensors", {})[PREFIX + name if prefixed else name] = expected[name]
        for file, inside in shards.items():
            save_file(inside, Path(folder) / file, {"told": "once"})
        index = Path(folder) / "all.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {name: file for file, inside in shards.items() for name in inside}}))
        found = StoredWeights(index)
        assert set(found) == set(NAMES) and found.metadata == {"told": "once"}
        for name, value in expected.items():
            assert torch.equal(found.read(name), value)
            assert (found.shapes[name], found.dtypes[name]) == (value.shape, value.dtype)


def test_a_checkpoint_reads_like_a_file(tmp_path) -> None:
    torch.save({"state_dict": {PREFIX + name: value for name, value in tensors().items()}}, tmp_path / "all.pth")
    found = StoredWeights(tmp_path / "all.pth")
    assert found.metadata == {} and all(torch.equal(found.read(name), value) for name, value in tensors().items())


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 0.999))
def test_a_file_that_is_cut_short_anywhere_is_named(share: float) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "short.safetensors"
        save_file(tensors(), path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(RunError, match="short.safetensors is corrupt or cut short"):
            StoredWeights(path)


def test_a_checkpoint_that_is_cut_short_is_named(tmp_path) -> None:
    torch.save(tensors(), tmp_path / "short.pth")
    (tmp_path / "short.pth").write_bytes((tmp_path / "short.pth").read_bytes()[:300])
    with pytest.raises(RunError, match="short.pth: it is damaged"):
        StoredWeights(tmp_path / "short.pth")
