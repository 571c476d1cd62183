"""The cache: tensors by key in safetensors shards, so that encoders run once for each text and picture."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import RunError
from ..files import cache_key, replacing_file

# A shard is written when it holds this much; an interruption costs at most the work on one.
SHARD_BYTES = 64 << 20
SHARD_ENTRIES = 1024
CHECKSUMS, NOTES = "crc32", "notes"
OPEN_SHARDS = 32


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
                _, keys, notes = _opened(path)
            except FileNotFoundError:
                # Another process has just removed it, for the same reason as this one would.
                continue
            except (SafetensorError, ValueError, KeyError, TypeError):
                path.unlink(missing_ok=True)
                damaged.append(path)
                continue
            self._shards.update(dict.fromkeys(keys, path))
            self._notes.update(notes)
        return damaged

    def __contains__(self, key: str) -> bool:
        return key in self._shards

    def note(self, key: str) -> str | None:
        """What was to be remembered of the entry under ``key``, if anything was."""
        return self._notes.get(key)

    def __getitem__(self, key: str) -> dict[str, Tensor]:
        """The entry under ``key``; raises RunError where its shard has been damaged or removed since the scan."""
        path = self._shards[key]
        try:
            file, checksums, _ = self._open(path)
            entry = {name.partition(".")[2]: file.get_tensor(name) for name in file.keys() if name.startswith(f"{key}.")}
        except (SafetensorError, OSError) as error:
            raise RunError(f"the cache shard {path} cannot be read: {error}", "run the same command again: it is made anew") from error
        if _checksum(entry) != checksums[key]:
            raise RunError(f"the cache shard {path} is damaged: a checksum does not match", f"remove it, and it is made anew: rm {path}")
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # What is gathered is whole, whatever stopped the work; a full disk would only fail a second time.
        if not isinstance(error, OSError):
            self.flush()

    def add(self, key: str, entry: Mapping[str, Tensor], what: str, note: str | None = None) -> None:
        """Put an entry under ``key``, with a ``note`` where something is to be remembered of it; raises RunError naming ``what`` where it holds values that are not finite."""
        if not all(value.isfinite().all() for value in entry.values()):
            raise RunError(f"the encoder gave values that are not finite for {what}", "take another --set teacher.base or precision")
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


def _opened(path: Path) -> tuple[safe_open, dict[str, int], dict[str, str]]:
    """A shard, mapped into memory, the checksums of its entries and what is noted of them."""
    file = safe_open(path, "pt")
    metadata = file.metadata()
    # Shards of 0.1.0 have no notes.
    return file, json.loads(metadata[CHECKSUMS]), dict(json.loads(metadata.get(NOTES, "{}")))


def _checksum(entry: Mapping[str, Tensor]) -> int:
    checksum = 0
    for name in sorted(entry):
        # A scalar has no bytes to view as until it has an axis.
        data = entry[name].contiguous().reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(data, zlib.crc32(name.encode(), checksum))
    return checksum
