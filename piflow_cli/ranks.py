"""What this process is among those of one run, as torchrun and accelerate tell it by environment variables."""

from __future__ import annotations

import os


def launched_processes() -> int:
    """How many processes torchrun or accelerate started, read from the environment they set."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one of a run that writes for all of them."""
    return launched_processes() == 1 or os.environ.get("RANK", "0") == "0"
