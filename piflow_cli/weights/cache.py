"""The caches: tensors by key, in safetensors files of a folder, which are checked when they are read.

All lie in one folder (:func:`~piflow_cli.system.files.user_cache`), by the names in
:mod:`piflow_cli.weights.cache_kinds`. A file that is not as it was written is removed, and what it held is made anew.
What older versions of piflow kept in files of another form is made anew too.

Two folders beside them are no caches of tensors. A converted teacher is loaded by programs that take a folder with a
config, and is too large to be copied out of a shard: it has a list of digests (:mod:`piflow_cli.weights.digests`) and a
lock. Downloads stay as their makers published them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..core.tensors import all_finite
from ..errors import RunError
from ..system.files import cache_key
from ..system.holding import Holding
from .cache_kinds import KEPT_DAYS
from .shards import UNREADABLE, open_shard, write_shard

# A shard is written when it holds this much; an interruption costs at most the work on one.
SHARD_BYTES = 64 << 20
SHARD_ENTRIES = 1024
AGAIN = "run the same command again: what it held is made anew"
# Mapped files, not memory: as many as all of ImageNet takes, whose latents are visited in no order.
OPEN_SHARDS = 2048


def as_bytes(text: str) -> Tensor:
    """A text as a tensor (bytes,) uint8, for an entry."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)


def as_text(value: Tensor) -> str:
    """The text of :func:`as_bytes`."""
    return value.numpy().tobytes().decode()


class Cache:
    """A cache of large entries (tensors by name), a shard for each key; several processes may write to one folder.

    The time of a file's last change is that of its last use. `piflow cache` leaves the folder alone while it is held.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._holding = Holding(folder)

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        """Whether the entry is there and whole: all of its file is read."""
        return self.get(key) is not None

    def forget_unused(self) -> None:
        """Remove every file that was not used for KEPT_DAYS, and what killed processes left half-written."""
        oldest = time.time() - 24 * 3600 * KEPT_DAYS
        for path in self.folder.glob("*/*"):
            # Another process may be at the same.
            with suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The entry under ``key``; None where there is none, or where its file is damaged, which is removed then."""
        path = self.path(key)
        self._holding.begin()
        # It may not be there, and in a cache that others own it stays as it is.
        with suppress(OSError):
            os.utime(path)
        try:
            shard = open_shard(path)
            entry = shard.entry(key)
            if shard.is_whole(key, entry):
                return entry
        except FileNotFoundError:
            return None
        except UNREADABLE:
            pass
        path.unlink(missing_ok=True)
        return None

    def put(self, key: str, entry: Mapping[str, Tensor]) -> None:
        """Write an entry aside, then rename it into place."""
        self._holding.begin()
        write_shard(self.path(key), {key: {name: value.cpu().contiguous() for name, value in entry.items()}}, {})


class ShardedCache:
    """A cache of small entries (tensors by name), many in each shard of a folder that may not exist yet.

    Several processes may add to one folder at once: a shard is named after what is in it, written aside and renamed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._holding = Holding(folder)
        self._shards: dict[str, Path] = {}
        self._notes: dict[str, str] = {}
        self._open = lru_cache(OPEN_SHARDS)(open_shard)

    def scan(self) -> list[Path]:
        """Read anew what is there; files that are cut short, or no shards, are removed and returned."""
        self._holding.begin()
        self._shards, self._notes, damaged = {}, {}, []
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                shard = open_shard(path)
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
        """The note on the entry under ``key``, if there is one."""
        return self._notes.get(key)

    def __getitem__(self, key: str) -> dict[str, Tensor]:
        """The entry under ``key``; raises RunError where its shard is damaged, so removed, or gone since the scan."""
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
        """A context manager that adds entries; they can be read after the next scan."""
        return ShardWriter(self.folder, self._holding)


class ShardWriter:
    """Gathers entries and writes them shard by shard; the last one when the context ends, however it ends."""

    def __init__(self, folder: Path, holding: Holding) -> None:
        self.folder = folder
        self._holding = holding
        self._entries: dict[str, dict[str, Tensor]] = {}
        self._notes: dict[str, str] = {}
        self._bytes = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Gathered entries are whole, whatever stopped the work; a full disk would only fail a second time.
        if not isinstance(error, OSError):
            self.flush()

    def add(self, key: str, entry: Mapping[str, Tensor], what: str, note: str | None = None) -> None:
        """Put an entry under ``key``, with a ``note`` if one is given.

        Raises RunError naming ``what`` where it holds values that are not finite.
        """
        if not all(map(all_finite, entry.values())):
            raise RunError(
                f"the encoder gave values that are not finite for {what}",
                "name another base: --base PATH; of a teacher of classes another VAE: --set teacher.vae=PATH",
            )
        # Rows of a batch share its memory, and safetensors refuses tensors that do.
        self._entries[key] = {name: value.detach().cpu().contiguous().clone() for name, value in entry.items()}
        self._bytes += sum(value.nbytes for value in entry.values())
        if note is not None:
            self._notes[key] = note
        if self._bytes >= SHARD_BYTES or len(self._entries) >= SHARD_ENTRIES:
            self.flush()

    def flush(self) -> None:
        """Write the gathered entries."""
        if not self._entries:
            return
        name = cache_key(keys=sorted(self._entries))
        write_shard(self.folder / f"{name}.safetensors", self._entries, self._notes)
        # Before the first shard there may have been nothing to hold.
        self._holding.begin()
        self._entries, self._notes, self._bytes = {}, {}, 0
