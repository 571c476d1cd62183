"""Spikes of the loss: said and counted, and otherwise nothing; many are a sign that a run should be gentler."""

from __future__ import annotations

import math
import statistics
from collections import deque

FACTOR = 5.0  # times the median
WINDOW = 50  # losses before it
FEWEST = 20  # of them, before anything is called a spike


class SpikeWatch:
    """Looks at losses as they come, those of a resumed run from the start again; ``count`` is the number of spikes."""

    def __init__(self) -> None:
        self.count = 0
        self._before: deque[float] = deque(maxlen=WINDOW)

    def see(self, loss: float | None) -> float | None:
        """How many times the median of the losses before it a spike is; None where ``loss`` is none, or not finite."""
        if loss is None or not math.isfinite(loss):
            return None
        median = statistics.median(self._before) if len(self._before) >= FEWEST else 0.0
        self._before.append(loss)
        if median <= 0 or loss <= FACTOR * median:
            return None
        self.count += 1
        return loss / median
