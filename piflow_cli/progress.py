"""Progress for a file or a pipe: whole lines now and then, where a terminal has a bar."""

from __future__ import annotations

import math
from typing import Any

from tqdm import tqdm

LOG_INTERVAL = 10.0  # seconds
LINES = 100  # at most, so that a run of days leaves a log that can be read
FORMAT = "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class ProgressLines(tqdm):
    """A line at every percent, if the one before it is ten seconds old, and one at the end.

    No carriage return is written, so that no other line is glued to these.
    """

    monitor_interval = 0  # no thread that draws in between

    def __init__(self, total: int, **options: Any) -> None:
        # A delay leaves out the line at the very start.
        super().__init__(
            total=total,
            mininterval=LOG_INTERVAL,
            miniters=max(1, math.ceil(total / LINES)),
            bar_format=FORMAT,
            delay=1e-9,
            **options,
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the line."""
        self.fp.write(f"{self if msg is None else msg}\n")
        self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Do nothing: a line stays where it is."""

    def close(self) -> None:
        """Write where it ended."""
        if not self.disable:
            self.display()
        # With this tqdm adds nothing that belongs to a bar.
        self.delay = math.inf
        super().close()
