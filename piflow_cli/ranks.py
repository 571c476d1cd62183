"""The rank of this process in a run, from the environment variables of torchrun and accelerate."""

from __future__ import annotations

import os


def launched_processes() -> int:
    """The number of processes that torchrun or accelerate started, from the environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_here() -> int:
    """The number of those on this machine, where what started them says so, or else 1."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process writes for all processes of a run."""
    return launched_processes() == 1 or os.environ.get("RANK", "0") == "0"
