"""How long the parts of a training step take, on a GPU too, without a wait for it."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch

PARTS = ("data", "student", "teacher", "policy", "backward", "optimizer")


class StepClock:
    """Marks between the parts of one step on ``device``, each of which lasts until the next begins.

    ``data``: drawing and copying; ``student`` and ``teacher``: forward passes of the networks; ``policy``: rollouts and
    the loss; ``backward``: through policy and student; ``optimizer``: clipping, update and average. A mark on a GPU is
    an event in its stream, which is read when the step is long over.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._marks: list[tuple[str, Any]] = []

    def enter(self, part: str) -> None:
        """Begin a ``part``, or go on with it."""
        if self._stream is None:
            self._marks.append((part, time.perf_counter()))
        else:
            event = torch.cuda.Event(enable_timing=True)
            event.record(self._stream)
            self._marks.append((part, event))

    @contextmanager
    def during(self, part: str) -> Generator[None]:
        """A ``part`` amid another, which goes on after it."""
        before = self._marks[-1][0] if self._marks else part
        self.enter(part)
        yield
        self.enter(before)

    def stop(self) -> None:
        """End the last part."""
        self.enter("")

    def seconds(self) -> dict[str, float]:
        """The seconds of the whole ``step`` and of each of PARTS; a GPU must have reached the last mark."""
        found = dict.fromkeys(PARTS, 0.0)
        for (part, begin), (_, end) in pairwise(self._marks):
            found[part] += self._between(begin, end)
        return {"step": self._between(self._marks[0][1], self._marks[-1][1]), **found}

    def _between(self, begin: Any, end: Any) -> float:
        return end - begin if self._stream is None else begin.elapsed_time(end) / 1000
