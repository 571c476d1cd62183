"""metrics.jsonl: one line an iteration, and the loss curve drawn from it."""

from __future__ import annotations

import json
import math
from pathlib import Path

from ..files import replacing_file

SMOOTHING = 25


class Metrics:
    """The metrics of a run, written to a file as they come.

    A resumed run first drops the lines after its checkpoint, so that the file reads as if it had never stopped.
    """

    def __init__(self, path: Path, iteration: int) -> None:
        self.path = path
        self.rows = [row for row in read_metrics(path) if row["iteration"] <= iteration]
        with replacing_file(path) as aside:
            aside.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def add(self, row: dict) -> None:
        """Append a finished iteration."""
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict]:
    """All complete lines of a metrics file, none where there is no file; a line that a crash cut short is passed over."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def draw_loss(rows: list[dict], path: Path) -> None:
    """Draw loss against iteration, with a running mean, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    iterations, losses = [row["iteration"] for row in rows], [row["loss"] for row in rows]
    axes.plot(iterations, losses, color="0.75", linewidth=0.8, label="each iteration")
    means = [math.fsum(losses[max(0, end - SMOOTHING) : end]) / min(end, SMOOTHING) for end in range(1, len(losses) + 1)]
    axes.plot(iterations, means, color="tab:blue", label=f"mean of {SMOOTHING}")
    axes.set(xlabel="iteration", ylabel="pi-ID loss", yscale="log")
    axes.legend(frameon=False)
    with replacing_file(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
