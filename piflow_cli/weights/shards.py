"""Shards of the caches: entries (tensors by name) under keys, in a safetensors file with their checksums."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..system.devices import usable_cores
from ..system.files import replacing_file

# Errors of a file that is cut short, or no shard.
UNREADABLE = (SafetensorError, ValueError, KeyError, TypeError)
# Checksums of 0.1.0 do not cover dtypes and shapes.
CHECKSUMS, PLAIN_CHECKSUMS, NOTES = "checksums", "crc32", "notes"
# Checksums leave Python's lock to others; more readers than this a disk does not serve faster.
MOST_READERS = 8
# Shards that this process has read from end to end, by their path, size and time.
_found_whole: set[tuple[Path, int, int]] = set()


@dataclass(frozen=True)
class Shard:
    """A shard, mapped into memory: checksums, notes and names of tensors of its entries, by key.

    ``covers_kinds``: whether the checksums cover dtypes and shapes too.
    """

    file: safe_open
    checksums: Mapping[str, int]
    notes: Mapping[str, str]
    names: Mapping[str, list[str]]
    covers_kinds: bool

    def entry(self, key: str) -> dict[str, Tensor]:
        """The tensors under ``key``, by name."""
        return {name.partition(".")[2]: self.file.get_tensor(name) for name in self.names[key]}

    def is_whole(self, key: str, entry: Mapping[str, Tensor]) -> bool:
        """Whether ``entry``, read under ``key``, is what was written."""
        return _checksum(entry, self.covers_kinds) == self.checksums[key]


def open_shard(path: Path) -> Shard:
    """The shard at ``path``, without reading an entry; raises FileNotFoundError, or one of UNREADABLE."""
    file, names = safe_open(path, "pt"), {}
    for name in file.keys():
        names.setdefault(name.partition(".")[0], []).append(name)
    metadata = file.metadata()
    covers_kinds = CHECKSUMS in metadata
    checksums = json.loads(metadata[CHECKSUMS if covers_kinds else PLAIN_CHECKSUMS])
    # Many shards have no notes, and those of 0.1.0 never have.
    return Shard(file, checksums, dict(json.loads(metadata.get(NOTES, "{}"))), names, covers_kinds)


def write_shard(path: Path, entries: Mapping[str, Mapping[str, Tensor]], notes: Mapping[str, str]) -> None:
    """Write ``entries``, by key, aside, then rename the file into place."""
    checksums = {key: _checksum(entry) for key, entry in entries.items()}
    tensors = {f"{key}.{name}": value for key, entry in entries.items() for name, value in entry.items()}
    told = {CHECKSUMS: json.dumps(checksums), **({NOTES: json.dumps(notes)} if notes else {})}
    with replacing_file(path) as aside:
        save_file(tensors, aside, told)


def remove_damaged(shards: Collection[Path]) -> list[Path]:
    """Read ``shards`` from end to end, once in a process; remove and return those that were changed.

    Several are read at a time, at about 1 GB/s for each core: of ImageNet's latents, 42 GB, that is less than a minute
    at a run's start.
    """
    with ThreadPoolExecutor(min(MOST_READERS, usable_cores())) as pool:
        damaged = [path for path, whole in zip(shards, pool.map(is_whole_shard, shards)) if not whole]
    for path in damaged:
        path.unlink(missing_ok=True)
    return damaged


def is_whole_shard(path: Path) -> bool:
    """Whether every entry of a shard is what was written; once in a process. True for one that is gone by now."""
    try:
        seen = (path, (stat := path.stat()).st_size, stat.st_mtime_ns)
        if seen in _found_whole:
            return True
        shard = open_shard(path)
        whole = shard.names.keys() == shard.checksums.keys() and all(
            shard.is_whole(key, shard.entry(key)) for key in shard.names
        )
    except FileNotFoundError:
        # Another process has just removed it; the next scan misses it.
        return True
    except UNREADABLE:
        return False
    if whole:
        _found_whole.add(seen)
    return whole


def _checksum(entry: Mapping[str, Tensor], kinds: bool = True) -> int:
    checksum = 0
    for name, value in sorted(entry.items()):
        told = json.dumps([name, str(value.dtype), list(value.shape)]) if kinds else name
        # A scalar has no bytes to view as until it has an axis.
        data = value.contiguous().reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(data, zlib.crc32(told.encode(), checksum))
    return checksum
