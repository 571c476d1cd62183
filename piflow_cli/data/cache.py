"""The cache: tensors by key in safetensors shards, so that encoders run once for each text and picture."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..core.tensors import all_finite
from ..errors import RunError
from ..system.devices import usable_cores
from ..system.files import cache_key, replacing_file

# A shard is written when it holds this much; an interruption costs at most the work on one.
SHARD_BYTES = 64 << 20
SHARD_ENTRIES = 1024
UNREADABLE = (SafetensorError, ValueError, KeyError, TypeError)
# Those of 0.1.0 do not cover dtypes and shapes.
CHECKSUMS, PLAIN_CHECKSUMS, NOTES = "checksums", "crc32", "notes"
AGAIN = "run the same command again: what it held is made anew"
# Mapped files, not memory: as many as all of ImageNet takes, whose latents are visited in no order.
OPEN_SHARDS = 2048
# Checksums leave Python's lock to others; more readers than this a disk does not serve faster.
MOST_READERS = 8
# Shards that this process has read from end to end, by their path, size and time.
_found_whole: set[tuple[Path, int, int]] = set()


class Cache:
    """Entries (tensors by name) under keys, in the shards of one folder, which may not exist yet.

    Several processes may add to one folder at once: a shard is named after what is in it, written aside and renamed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: dict[str, Path] = {}
        self._notes: dict[str, str] = {}
        self._open = lru_cache(OPEN_SHARDS)(_opened)

    def scan(self) -> list[Path]:
        """Find out anew what is there; shards that are cut short or no shards are removed, and returned."""
        self._shards, self._notes, damaged = {}, {}, []
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                shard = _opened(path)
            except FileNotFoundError:
                # Another process has just removed it, for the same reason as this one would.
                continue
            except UNREADABLE:
                path.unlink(missing_ok=True)
                damaged.append(path)
                continue
            self._shards.update(dict.fromkeys(shard.checksums, path))
            self._notes.update(shard.notes)
        return damaged

    def shards_with(self, keys: Collection[str]) -> list[Path]:
        """The shards that hold any of ``keys``, by name."""
        return sorted({self._shards[key] for key in keys if key in self._shards})

    def __contains__(self, key: str) -> bool:
        return key in self._shards

    def note(self, key: str) -> str | None:
        """What was to be remembered of the entry under ``key``, if anything was."""
        return self._notes.get(key)

    def __getitem__(self, key: str) -> dict[str, Tensor]:
        """The entry under ``key``; raises RunError where its shard has been damaged, and so
        is removed, or went away since the scan."""
        path = self._shards[key]
        try:
            shard = self._open(path)
            entry = shard.entry(key)
        except (SafetensorError, OSError) as error:
            raise RunError(f"the cache shard {path} cannot be read: {error}", AGAIN) from error
        if not shard.is_whole(key, entry):
            path.unlink(missing_ok=True)
            raise RunError(f"the cache shard {path} was damaged, and is removed: a checksum does not match", AGAIN)
        return entry

    def writer(self) -> ShardWriter:
        """Adds entries, as a context manager; they can be read after the next scan."""
        return ShardWriter(self.folder)


class ShardWriter:
    """Gathers entries and writes them shard by shard, the last one when the context ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[str, dict[str, Tensor]] = {}
        self._notes: dict[str, str] = {}
        self._bytes = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What is gathered is whole, whatever stopped the work; a full disk would only fail a second time.
        if not isinstance(error, OSError):
            self.flush()

    def add(self, key: str, entry: Mapping[str, Tensor], what: str, note: str | None = None) -> None:
        """Put an entry under ``key``, with a ``note`` where something is to be remembered of it.

        Raises RunError naming ``what`` where it holds values that are not finite.
        """
        if not all(map(all_finite, entry.values())):
            raise RunError(
                f"the encoder gave values that are not finite for {what}",
                "encode in full precision: --set optimisation.precision=fp32; or name another base: --base PATH",
            )
        # Rows of a batch share its memory, and safetensors refuses tensors that do.
        self._entries[key] = {name: value.detach().cpu().contiguous().clone() for name, value in entry.items()}
        self._bytes += sum(value.nbytes for value in entry.values())
        if note is not None:
            self._notes[key] = note
        if self._bytes >= SHARD_BYTES or len(self._entries) >= SHARD_ENTRIES:
            self.flush()

    def flush(self) -> None:
        """Write what is gathered."""
        if not self._entries:
            return
        checksums = {key: _checksum(entry) for key, entry in self._entries.items()}
        tensors = {f"{key}.{name}": value for key, entry in self._entries.items() for name, value in entry.items()}
        with replacing_file(self.folder / f"{cache_key(keys=sorted(checksums))}.safetensors") as aside:
            save_file(tensors, aside, {CHECKSUMS: json.dumps(checksums), NOTES: json.dumps(self._notes)})
        self._entries, self._notes, self._bytes = {}, {}, 0


def remove_damaged(shards: Collection[Path]) -> list[Path]:
    """Read ``shards`` from end to end, once in a process, and remove those that are not
    as they were written, which are returned.

    Several are read at a time, at about 1 GB/s for each core: of ImageNet's latents, 42 GB,
    that is less than a minute at a run's start.
    """
    with ThreadPoolExecutor(min(MOST_READERS, usable_cores())) as pool:
        damaged = [path for path, whole in zip(shards, pool.map(_is_whole, shards)) if not whole]
    for path in damaged:
        path.unlink(missing_ok=True)
    return damaged


def _is_whole(path: Path) -> bool:
    try:
        seen = (path, (stat := path.stat()).st_size, stat.st_mtime_ns)
        if seen in _found_whole:
            return True
        shard = _opened(path)
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


@dataclass(frozen=True)
class Shard:
    """A shard, mapped into memory: by key the checksums of its entries, what is noted
    of them, and the names of their tensors.

    ``covers_kinds``: whether the checksums are of dtypes and shapes too.
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


def _opened(path: Path) -> Shard:
    file, names = safe_open(path, "pt"), {}
    for name in file.keys():
        names.setdefault(name.partition(".")[0], []).append(name)
    metadata = file.metadata()
    covers_kinds = CHECKSUMS in metadata
    checksums = json.loads(metadata[CHECKSUMS if covers_kinds else PLAIN_CHECKSUMS])
    # Shards of 0.1.0 have no notes.
    return Shard(file, checksums, dict(json.loads(metadata.get(NOTES, "{}"))), names, covers_kinds)


def _checksum(entry: Mapping[str, Tensor], kinds: bool = True) -> int:
    checksum = 0
    for name, value in sorted(entry.items()):
        told = json.dumps([name, str(value.dtype), list(value.shape)]) if kinds else name
        # A scalar has no bytes to view as until it has an axis.
        data = value.contiguous().reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(data, zlib.crc32(told.encode(), checksum))
    return checksum
