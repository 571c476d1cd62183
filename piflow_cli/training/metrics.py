"""metrics.jsonl: one line for each iteration, and the loss curve."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from pathlib import Path
from typing import Any

from ..students.run_status import metric_lines
from ..system.files import replacing_file
from ..system.folders import sync_file
from .spikes import SpikeWatch

logger = logging.getLogger("piflow.training")
SMOOTHING = 25


class Metrics:
    """The metrics of a run, written to a file as they come.

    A resumed run first drops the lines after its checkpoint, so that the file reads as if it had never stopped.
    ``digest`` is what the file's lines until then had when the checkpoint was saved; if they no longer do, that is
    said.
    """

    def __init__(self, path: Path, iteration: int, digest: str | None = None) -> None:
        self.path = path
        kept = [(line, row) for line, row in metric_lines(path) if row["iteration"] <= iteration]
        self.rows = [row for _, row in kept]
        self._spikes = SpikeWatch()
        for row in self.rows:
            self._spikes.see(row["loss"])
        text = "".join(f"{line}\n" for line, _ in kept)
        self._digest = hashlib.sha256(text.encode())
        if digest is not None and digest != self.digest:
            logger.warning(f"{path} is damaged: its lines until iteration {iteration} are not those that the run wrote")
        with replacing_file(path) as aside:
            aside.write_text(text, encoding="utf-8")

    @property
    def digest(self) -> str:
        """SHA-256 of all lines."""
        return self._digest.hexdigest()

    @property
    def skipped(self) -> int:
        """The number of skipped steps."""
        return sum(row.get("skipped", False) for row in self.rows)

    @property
    def spikes(self) -> int:
        """The number of losses far above those before them."""
        return self._spikes.count

    @property
    def last_loss(self) -> float | None:
        """The newest loss that is finite."""
        return next((row["loss"] for row in reversed(self.rows) if row["loss"] is not None), None)

    @property
    def smoothed_loss(self) -> float | None:
        """The mean of the newest finite losses, as many as the curve takes."""
        losses = [row["loss"] for row in self.rows[-SMOOTHING:] if row["loss"] is not None]
        return math.fsum(losses) / len(losses) if losses else None

    def add(self, row: dict) -> float | None:
        """Append a finished iteration; JSON has null for what is not finite.

        Returns how many times the median of those before it the loss is, where that is a spike.
        """
        row = _finite(row)
        self.rows.append(row)
        line = json.dumps(row) + "\n"
        self._digest.update(line.encode())
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
        return self._spikes.see(row["loss"])

    def sync(self) -> None:
        """Write everything so far to the disk."""
        sync_file(self.path)


def _finite(value: Any) -> Any:
    """``value`` with None in place of the numbers in it that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw_loss(rows: list[dict], path: Path) -> None:
    """Draw loss against iteration, with a running mean, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = [row for row in rows if row["loss"] is not None]
    iterations, losses = [row["iteration"] for row in rows], [row["loss"] for row in rows]
    axes.plot(iterations, losses, color="0.75", linewidth=0.8, label="each iteration")
    means = [
        math.fsum(losses[max(0, end - SMOOTHING) : end]) / min(end, SMOOTHING) for end in range(1, len(losses) + 1)
    ]
    axes.plot(iterations, means, color="tab:blue", label=f"mean of {SMOOTHING}")
    axes.set(xlabel="iteration", ylabel="pi-ID loss", yscale="log")
    axes.legend(frameon=False)
    with replacing_file(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
