"""The cache gives back what was put in, bit for bit, and notices what is no longer that."""

from __future__ import annotations

import json
import os
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from piflow_cli.errors import RunError
from piflow_cli.system.files import cache_key
from piflow_cli.weights import cache, shards
from piflow_cli.weights.cache import ShardedCache
from piflow_cli.weights.shards import remove_damaged

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
SHAPES = st.lists(st.integers(0, 3), max_size=3)
ENTRIES = st.dictionaries(st.sampled_from(["embeds", "mask", "a.b"]), st.tuples(SHAPES, DTYPES), min_size=1)


def key(number: int) -> str:
    return cache_key(number=number)


def filled(folder, numbers, *, size=3) -> ShardedCache:
    with ShardedCache(folder).writer() as writer:
        for number in numbers:
            writer.add(key(number), {"latents": torch.full((size,), float(number))}, "a picture")
    store = ShardedCache(folder)
    store.scan()
    return store


@given(st.lists(ENTRIES, min_size=1, max_size=4))
def test_entries_come_back_bit_for_bit(tmp_path_factory, entries):
    folder = tmp_path_factory.mktemp("cache")
    generator = torch.Generator().manual_seed(0)
    stored = {
        key(number): {
            name: (torch.randn(shape, generator=generator) * 3).to(dtype) for name, (shape, dtype) in entry.items()
        }
        for number, entry in enumerate(entries)
    }
    with ShardedCache(folder).writer() as writer:
        for name, entry in stored.items():
            writer.add(name, entry, "an entry")
    store = ShardedCache(folder)
    assert store.scan() == [] and key(99) not in store
    for name, entry in stored.items():
        found = store[name]
        assert name in store and found.keys() == entry.keys()
        assert all(found[part].dtype == entry[part].dtype and torch.equal(found[part], entry[part]) for part in entry)


def test_rows_of_a_batch_are_stored_each_for_itself(tmp_path):
    rows = torch.arange(6.0).reshape(2, 3)
    with ShardedCache(tmp_path).writer() as writer:
        for number, row in enumerate(rows):
            writer.add(key(number), {"latents": row}, "a picture")
        rows.zero_()
    store = ShardedCache(tmp_path)
    store.scan()
    assert torch.equal(store[key(1)]["latents"], torch.tensor([3.0, 4.0, 5.0]))


def test_shards_are_bounded_in_bytes_and_in_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SHARD_BYTES", 24)
    filled(tmp_path / "bytes", range(5))
    assert len(list((tmp_path / "bytes").iterdir())) == 3
    monkeypatch.setattr(cache, "SHARD_BYTES", 10**6)
    monkeypatch.setattr(cache, "SHARD_ENTRIES", 4)
    filled(tmp_path / "entries", range(5))
    assert len(list((tmp_path / "entries").iterdir())) == 2


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_what_stops_the_work_costs_nothing_that_was_done(tmp_path, stop):
    with pytest.raises(stop), ShardedCache(tmp_path).writer() as writer:
        writer.add(key(1), {"latents": torch.ones(2)}, "a picture")
        raise stop
    store = ShardedCache(tmp_path)
    store.scan()
    assert key(1) in store


@pytest.mark.parametrize("damage", ["cut short", "no shard", "empty", "another's"])
def test_a_damaged_shard_costs_only_itself(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(cache, "SHARD_ENTRIES", 1)
    filled(tmp_path, range(3))
    victim = sorted(tmp_path.iterdir())[1]
    data = victim.read_bytes()
    if damage == "another's":
        save_file({"x": torch.ones(1)}, victim)
    else:
        victim.write_bytes({"cut short": data[:-3], "no shard": b"x" * 100, "empty": b""}[damage])
    store = ShardedCache(tmp_path)
    assert store.scan() == [victim] and not victim.exists()
    assert sum(key(number) in store for number in range(3)) == 2
    assert filled(tmp_path, range(3)).scan() == [] and all(key(number) in filled(tmp_path, []) for number in range(3))


def test_a_flipped_bit_is_noticed_when_the_entry_is_read(tmp_path):
    filled(tmp_path, range(2))
    (shard,) = tmp_path.iterdir()
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    store = ShardedCache(tmp_path)
    assert store.scan() == []
    with pytest.raises(RunError, match="a checksum does not match") as caught:
        [store[key(number)] for number in range(2)]
    # What the hint says is enough: the next scan misses what was in it.
    assert caught.value.hint == "run the same command again: what it held is made anew" and not shard.exists()
    store = ShardedCache(tmp_path)
    assert store.scan() == [] and not any(key(number) in store for number in range(2))
    assert all(key(number) in filled(tmp_path, range(2)) for number in range(2))


def test_a_shard_is_read_from_end_to_end_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    held = filled(tmp_path, range(2)).shards_with([key(0), key(1), key(2)])
    assert held == list(tmp_path.iterdir()) and remove_damaged(held) == []
    data = held[0].read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(shards, "_checksum", lambda *given: pytest.fail("read again"))
        assert remove_damaged(held) == []
    held[0].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(held[0], ns=(0, 0))
    assert remove_damaged(held) == held and not held[0].exists() and remove_damaged(held) == []


@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_no_flipped_byte_gives_other_numbers(tmp_path_factory, place, flip):
    folder = tmp_path_factory.mktemp("cache")
    store = filled(folder, range(3), size=8)
    (shard,) = folder.iterdir()
    expected = {key(number): store[key(number)]["latents"].clone() for number in range(3)}
    data = bytearray(shard.read_bytes())
    data[place % len(data)] ^= flip
    shard.write_bytes(data)
    store = ShardedCache(folder)
    store.scan()
    remove_damaged(store.shards_with(expected))
    store.scan()
    for name, value in expected.items():
        assert name not in store or torch.equal(store[name]["latents"], value)


def test_a_shard_of_the_first_release_is_read_and_checked(tmp_path):
    value = torch.arange(6.0).reshape(2, 3)
    shard, checksum = tmp_path / "shard.safetensors", zlib.crc32(value.numpy().tobytes(), zlib.crc32(b"latents"))
    save_file({f"{key(0)}.latents": value}, shard, {"crc32": json.dumps({key(0): checksum})})
    store = ShardedCache(tmp_path)
    assert store.scan() == [] and remove_damaged([shard]) == [] and torch.equal(store[key(0)]["latents"], value)
    save_file({f"{key(0)}.latents": value + 1}, shard, {"crc32": json.dumps({key(0): checksum})})
    os.utime(shard, ns=(0, 0))
    assert remove_damaged([shard]) == [shard]


def test_what_is_noted_of_an_entry_comes_back_with_it(tmp_path):
    with ShardedCache(tmp_path).writer() as writer:
        writer.add(key(0), {"embeds": torch.ones(1)}, "a text", "901 tokens")
        writer.add(key(1), {"embeds": torch.ones(1)}, "a text")
        writer.flush()
        writer.add(key(2), {"embeds": torch.ones(1)}, "a text")
    store = ShardedCache(tmp_path)
    store.scan()
    assert [store.note(key(number)) for number in range(4)] == ["901 tokens", None, None, None]


def test_a_shard_that_went_away_is_named(tmp_path):
    store = filled(tmp_path, range(2))
    (shard,) = tmp_path.iterdir()
    shard.unlink()
    with pytest.raises(RunError, match=f"{shard.name} cannot be read"):
        store[key(0)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_never_stored(tmp_path, value):
    with pytest.raises(RunError, match="not finite for a.png"), ShardedCache(tmp_path).writer() as writer:
        writer.add(key(0), {"latents": torch.tensor([1.0, value])}, "a.png")
    assert not list(tmp_path.iterdir())


def test_keys_depend_on_everything_and_not_on_its_order():
    assert cache_key(a=1, b={"x": "1", "y": "2"}) == cache_key(b={"y": "2", "x": "1"}, a=1)
    assert len({cache_key(a=1), cache_key(a="1"), cache_key(b=1), cache_key(a=1, b=1), cache_key(a=[1])}) == 5
