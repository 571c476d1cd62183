"""What a run shows while it trains: the bar, losses as they come, and the time that is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..presets.budgets import in_units
from ..presets.expected import expected
from ..progress import show
from .rows import take_pending
from .settings import network_evaluations
from .spending import now
from .spikes import WINDOW
from .tracking import track_rows

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..console import Console
    from .loop import Session
    from .metrics import Metrics

# Between two readings of the losses, each of which waits for the device.
SECONDS = 2.0
MEASURED, DISCARDED = 5, 2  # steps; the first ones fetch, compile and warm up


class Showing:
    """The progress of a ``session`` on a ``bar``, and its rows in ``metrics``, on the process that has them."""

    def __init__(self, session: Session, metrics: Metrics | None, bar: tqdm, console: Console) -> None:
        self.session, self.metrics, self.bar, self.console = session, metrics, bar, console
        self._read = now()
        self._marks: list[float] = []
        self._figures: dict[str, float | int | str] = {}

    @property
    def due(self) -> bool:
        """Whether losses were last read some seconds ago, by the clock of this process."""
        return now() - self._read >= SECONDS

    def round(self, done: int, rounds: int) -> None:
        """Show that ``done`` of the ``rounds`` of accumulation of a step are over."""
        if rounds > 1:
            self._figures["round"] = f"{done}/{rounds}"
            show(self.bar, self._figures)

    def step(self) -> None:
        """Count a step that is over; after a few of them say how much time is left."""
        self.bar.update()
        settings = self.session.preset.optimisation
        if len(self._marks) == MEASURED:
            return
        self._marks.append(now())
        left = settings.iterations - self.session.iteration
        # A run under a budget has said its own plan.
        if len(self._marks) == MEASURED and settings.budget is None and left > 0:
            each = (self._marks[-1] - self._marks[DISCARDED - 1]) / (MEASURED - DISCARDED)
            self.console.say(f"about {in_units(left * each)} left: {left:,} iterations of {each:.2g} s")

    def report(self) -> None:
        """Read the losses, show and write them, and say which steps were skipped; all processes take part."""
        self._read = now()
        rows, spikes = take_pending(self.session), []
        track_rows(self.session.accelerator, rows, self.console)
        if self.metrics is None:
            return
        for row in rows:
            if (times := self.metrics.add(row)) is not None:
                spikes.append(f"iteration {row['iteration']}, {times:.0f}")
        if rows:
            self._show(rows[-1], self.metrics.smoothed_loss)
        if spikes:
            self.console.warn(f"a spike of the loss: {'; '.join(spikes)} times the median of the {WINDOW} before it")
        if skipped := [row["iteration"] for row in rows if row["skipped"]]:
            self.console.warn(
                "steps without effect, since their gradients were not finite: iterations"
                f" {', '.join(map(str, skipped))} ({self.metrics.skipped} so far)"
            )

    def _show(self, newest: dict, loss: float | None) -> None:
        # Each loss is of other samples at other times: a single one says little.
        smoothed = {} if loss is None else {"loss": loss}
        self._figures |= {**smoothed, "teacher_ratio": newest["teacher_ratio"], "evaluations": newest["evaluations"]}
        show(self.bar, self._figures | self._hoped())

    def _hoped(self) -> dict[str, str]:
        """The quality to expect of a run of this length; nothing where none is known."""
        preset = self.session.preset
        found = expected(preset, preset.optimisation.iterations * network_evaluations(preset))
        return {} if found is None else {"expected": found.short}
