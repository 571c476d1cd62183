"""What was generated and extracted once: states and features in the user's cache, in blocks of pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..files import replacing_file, user_cache

ROWS = "rows"
CHUNK = 1 << 24  # bytes


class Store:
    """Tensors (N, ...) by key, a safetensors file each; several processes may write to one folder at once."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (user_cache() if folder is None else folder) / "eval"

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def get(self, key: str) -> Tensor | None:
        """The tensor under ``key``; None where there is none, or where its file is damaged, which is removed then."""
        try:
            return load_file(self.path(key))[ROWS]
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError):
            self.path(key).unlink(missing_ok=True)
            return None

    def put(self, key: str, rows: Tensor) -> None:
        """Write a tensor aside, then rename it into place."""
        with replacing_file(self.path(key)) as aside:
            save_file({ROWS: rows.to("cpu", torch.float32).contiguous()}, aside)


def files_digest(paths: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
