"""The command in a process of its own."""

from __future__ import annotations

import sys


def piflow(*words: object) -> list[str]:
    """What starts `piflow WORDS` with this Python."""
    return [sys.executable, "-m", "piflow_cli", *map(str, words)]
