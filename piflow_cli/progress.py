"""Progress for a file, a pipe or a program: whole lines now and then, where a terminal has a bar."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

LOG_INTERVAL = 10.0  # seconds
LINES = 100  # at most, so that a run of days leaves a log that can be read
# Where a percent takes long, a line comes when this part of the time until now has gone by again: a hundred in a week.
PATIENCE = 0.1
FORMAT = "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class ProgressLines(tqdm):
    """A line at every percent, if the one before it is ten seconds old, and one at the end.

    No carriage return is written, so that no other line is glued to these.
    """

    monitor_interval = 0  # no thread that draws in between

    def __init__(self, total: int, **options: Any) -> None:
        self.figures: dict[str, float | int | str] = {}
        self._said: float | None = None
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
        self._said = self._time()
        self.fp.write(f"{self.line() if msg is None else msg}\n")
        self.fp.flush()

    def line(self) -> str:
        """Where it stands."""
        return str(self)

    def tick(self) -> None:
        """Write a line where the last one is old, whether anything has moved or not."""
        if self.disable:
            return
        moment = self._time()
        since = self.start_t if self._said is None else self._said
        if moment - since >= max(LOG_INTERVAL, PATIENCE * (moment - self.start_t)):
            self.display()
            # The next one of a percent counts from here.
            self.last_print_t, self.last_print_n = moment, self.n

    def clear(self, nolock: bool = False) -> None:
        """Do nothing: a line stays where it is."""

    def close(self) -> None:
        """Write where it ended."""
        if not self.disable:
            self.display()
        # With this tqdm adds nothing that belongs to a bar.
        self.delay = math.inf
        super().close()


class JsonLines(ProgressLines):
    """The same as lines of JSON, each an object under the key ``progress``."""

    def line(self) -> str:
        """What it is ``of``, how much is ``done`` of the ``total``, seconds until now and left, and what is shown."""
        elapsed, fresh, total = self.format_dict["elapsed"], self.n - self.initial, int(self.total or 0)
        left = None if fresh == 0 else round(elapsed * (total - self.n) / fresh, 1)
        seconds = {"seconds": round(elapsed, 1), "seconds_left": left}
        stands = {"of": self.desc, "done": self.n, "total": total, **seconds, **self.figures}
        return json.dumps({"progress": stands}, allow_nan=False)


def show(bar: tqdm, figures: Mapping[str, float | int | str]) -> None:
    """Show ``figures`` behind a bar, or in the next line."""
    if isinstance(bar, ProgressLines):
        bar.figures = dict(figures)
    bar.set_postfix({name: _text(value) for name, value in figures.items()}, refresh=False)


def keep_alive(bar: tqdm) -> None:
    """Draw a bar again, so that its clock goes on; write a line where the last one is old."""
    if isinstance(bar, ProgressLines):
        bar.tick()
    elif not bar.disable:
        bar.refresh()


def _text(value: float | int | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
