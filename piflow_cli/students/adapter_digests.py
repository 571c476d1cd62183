"""Checksums of adapters, in the metadata of their weights, so that one changed byte is noticed.

The digest of the weights covers every tensor (name, dtype, shape, bytes) and all other metadata, in any order. The
digest of the config covers the bytes of config.json, where there is one. A tool that casts tensors and keeps the
metadata leaves other dtypes than those recorded: such a file is read without a check, like a file from elsewhere, and a
line says so. Any other difference is refused.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import RunError
from ..system.files import files_digest
from ..weights.digests import tensors_digest
from ..weights.stored import StoredWeights, shards_of
from .runs import run_of

WEIGHTS_DIGEST, CONFIG_DIGEST, DTYPES = "piflow.sha256", "piflow.config_sha256", "piflow.dtypes"
DIGESTS = (WEIGHTS_DIGEST, CONFIG_DIGEST, DTYPES)
# Files that were found whole, by their size and time: a command reads what a student says before it reads its weights.
_found_whole: set[tuple] = set()


def with_digests(metadata: Mapping[str, str], tensors: Mapping[str, Tensor], config: Path) -> dict[str, str]:
    """``metadata`` with the digests of itself, of ``tensors`` and of the file ``config``."""
    told = {
        **metadata,
        DTYPES: _dtypes(value.dtype for value in tensors.values()),
        CONFIG_DIGEST: files_digest([config]),
    }
    return told | {WEIGHTS_DIGEST: tensors_digest(told, tensors, tensors.__getitem__)}


def check_digests(weights: StoredWeights, config: Path | None, say: Callable[[str], None] = lambda line: None) -> None:
    """Raise RunError where ``weights`` or ``config`` are not what was saved; files without digests pass."""
    told = weights.metadata
    missing = [name for name in DIGESTS if name not in told]
    if len(missing) == len(DIGESTS):
        return
    if missing:
        raise _changed(weights.path, f"its metadata lack {missing[0]}")
    # Weights that were copied alone are a student too, and a run has both.
    if config is None and run_of(weights.path.parent) is not None:
        raise _changed(weights.path, "the config.json that was saved with it is missing")
    if config is not None and files_digest([config]) != told[CONFIG_DIGEST]:
        raise _changed(weights.path, f"{config.name} is not the one that was saved with it")
    dtypes = _dtypes(weights.dtypes.values())
    if told[DTYPES] != dtypes:
        if unknown := [
            name for name in told[DTYPES].split(",") if not isinstance(getattr(torch, name, None), torch.dtype)
        ]:
            raise _changed(weights.path, f"{DTYPES} names {unknown[0]!r}, which is no dtype")
        say(
            f"{weights.path} was saved in {told[DTYPES]} and is in {dtypes}: another tool has rewritten it, and no"
            " checksum covers it"
        )
        return
    key = tuple((file, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in shards_of(weights.path))
    if key in _found_whole:
        return
    rest = {name: value for name, value in told.items() if name != WEIGHTS_DIGEST}
    if tensors_digest(rest, weights, weights.read) != told[WEIGHTS_DIGEST]:
        raise _changed(weights.path, "its checksum differs")
    _found_whole.add(key)


def _changed(path: Path, what: str) -> RunError:
    accept = f"piflow export {shlex.quote(str(path))} --format adapter --accept-changed"
    return RunError(f"{path} is not as it was saved: {what}", f"copy it again; if the change is meant: {accept}")


def _dtypes(dtypes: Iterable[torch.dtype]) -> str:
    return ",".join(sorted({str(dtype).removeprefix("torch.") for dtype in dtypes}))
