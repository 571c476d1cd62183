"""What was generated and extracted once: states and features in the user's cache, in blocks of pictures."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ..errors import RunError
from ..system.files import user_cache
from ..weights.sealed import read_sealed, save_sealed

ROWS = "rows"
KEPT_DAYS = 30


class Store:
    """Tensors (N, ...) by key, a safetensors file each; several processes may write to one folder at once.

    The time of a file's last change is that of its last use.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (user_cache() if folder is None else folder) / "eval"

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        """Whether it can be had, whole: all of the file is read."""
        return self.get(key) is not None

    def forget_unused(self) -> None:
        """Remove every file that was not used for KEPT_DAYS, what killed processes left half-written too."""
        oldest = time.time() - 24 * 3600 * KEPT_DAYS
        for path in self.folder.glob("*/*"):
            # Another process may be at the same.
            with suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def get(self, key: str) -> Tensor | None:
        """The tensor under ``key``; None where there is none, or where its file is damaged, which is removed then."""
        self._use(key)
        try:
            _, tensors, sealed = read_sealed(self.path(key))
        except FileNotFoundError:
            return None
        except RunError:
            sealed, tensors = False, {}
        if not sealed or ROWS not in tensors:
            self.path(key).unlink(missing_ok=True)
            return None
        return tensors[ROWS]

    def put(self, key: str, rows: Tensor) -> None:
        """Write a tensor aside, then rename it into place."""
        save_sealed({ROWS: rows.to("cpu", torch.float32)}, self.path(key), {})

    def _use(self, key: str) -> None:
        # It may not be there, and in a cache that others own it stays as it is.
        with suppress(OSError):
            os.utime(self.path(key))
