"""The cache of large entries: what is used stays, and what is not goes."""

from __future__ import annotations

import os
import time

import pytest
import torch
from safetensors.torch import save_file

from piflow_cli.weights.cache import Cache
from piflow_cli.weights.cache_kinds import KEPT_DAYS

DAY = 24 * 3600


def aged(cache: Cache, key: str, days: float) -> None:
    cache.put(key, {"rows": torch.arange(3.0)})
    then = time.time() - days * DAY
    os.utime(cache.path(key), (then, then))


def test_what_was_not_used_for_long_is_removed(tmp_path) -> None:
    cache = Cache(tmp_path)
    aged(cache, "aa01", KEPT_DAYS + 1)
    aged(cache, "aa02", KEPT_DAYS - 1)
    left_over = cache.folder / "aa" / "half-written"
    left_over.touch()
    os.utime(left_over, (0, 0))
    cache.forget_unused()
    assert "aa01" not in cache and "aa02" in cache and not left_over.exists()


@pytest.mark.parametrize("use", [lambda cache: "aa01" in cache, lambda cache: cache.get("aa01")])
def test_to_look_at_it_is_to_use_it(tmp_path, use) -> None:
    cache = Cache(tmp_path)
    aged(cache, "aa01", KEPT_DAYS + 1)
    use(cache)
    cache.forget_unused()
    torch.testing.assert_close(cache.get("aa01"), {"rows": torch.arange(3.0)})


def test_an_empty_cache_has_nothing_to_forget(tmp_path) -> None:
    Cache(tmp_path / "none").forget_unused()
    assert not (tmp_path / "none").exists()


def test_a_damaged_file_is_removed_and_missing(tmp_path) -> None:
    cache = Cache(tmp_path)
    cache.put("aa01", {"rows": torch.zeros(2)})
    cache.path("aa01").write_bytes(b"damaged")
    assert cache.get("aa01") is None and "aa01" not in cache


def test_every_flipped_bit_is_noticed(tmp_path) -> None:
    cache = Cache(tmp_path)
    cache.put("aa01", {"rows": torch.arange(3.0)})
    whole = cache.path("aa01").read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        cache.path("aa01").write_bytes(damaged)
        assert "aa01" not in cache and not cache.path("aa01").exists(), place
    cache.path("aa01").write_bytes(whole)
    torch.testing.assert_close(cache.get("aa01"), {"rows": torch.arange(3.0)})


def test_a_file_without_a_digest_is_not_taken(tmp_path) -> None:
    cache = Cache(tmp_path)
    cache.put("aa01", {"rows": torch.arange(3.0)})
    save_file({"rows": torch.arange(3.0)}, cache.path("aa01"))
    assert cache.get("aa01") is None
