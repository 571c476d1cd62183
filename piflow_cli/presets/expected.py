"""What quality to expect of a run: a table beside a shipped teacher, measured with several seeds."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from piflow_cli.presets.folders import SHIPPED_PREFIX, beside_presets
from piflow_cli.presets.resolve import load

if TYPE_CHECKING:
    from piflow_cli.presets.schema import Preset

TABLE = "quality.json"
DEVIATIONS = 2.0  # of the seeds, on either side of their mean


@dataclass(frozen=True)
class Expected:
    """Between ``low`` and ``high`` lies most likely ``what`` a student will have."""

    what: str
    low: float
    high: float

    @property
    def short(self) -> str:
        """The two numbers alone.

        >>> Expected("distance", 0.17, 0.191).short
        '0.17-0.19'
        """
        return f"{self.low:.2g}-{self.high:.2g}"

    def __str__(self) -> str:
        return f"a {self.what} of {self.low:.2g} to {self.high:.2g}"


def expected(preset: Preset, evaluations: int) -> Expected | None:
    """What the student of ``preset`` will have after so many network evaluations.

    None where its teacher has no table, or where that says nothing of such settings or of so many evaluations. Only
    length, batch, warm-up and seed may differ from the shipped preset that was measured.
    """
    base = preset.teacher.base
    path = beside_presets(base.removeprefix(SHIPPED_PREFIX)) / TABLE
    if not base.startswith(SHIPPED_PREFIX) or not path.is_file():
        return None
    table = json.loads(path.read_text(encoding="utf-8"))
    if _shaping(preset) != _shaping(load(table["preset"])) or preset.optimisation.schedule != table["schedule"]:
        return None
    band = _between(table["rows"], evaluations)
    return None if band is None else Expected(table["what"], *band)


def _shaping(preset: Preset) -> tuple[Any, ...]:
    """The settings that shape the student, less those that a budget decides."""
    free = {"iterations": 1, "batch_size": 1, "device_batch_size": None, "warmup": 0, "schedule": "constant"}
    optimisation = replace(preset.optimisation, **free, budget=None)
    return (
        replace(preset.teacher, license="", memory=""),
        preset.policy,
        replace(preset.imitation, mixing_iterations=0),
        optimisation,
        preset.adapter,
        replace(preset.data, cache=None, offload_text_encoder=False),
    )


def _between(rows: list[dict[str, Any]], evaluations: int) -> tuple[float, float] | None:
    """Mean less and plus DEVIATIONS, both linear in the logarithm of the evaluations from one row to the next."""
    for left, right in pairwise(rows):
        if left["evaluations"] <= evaluations <= right["evaluations"]:
            span = math.log(right["evaluations"] / left["evaluations"])
            share = math.log(evaluations / left["evaluations"]) / span
            ends = zip(_band(left["values"]), _band(right["values"]))
            low, high = (one + share * (other - one) for one, other in ends)
            return low, high
    return None


def _band(values: list[float]) -> tuple[float, float]:
    mean, width = statistics.fmean(values), DEVIATIONS * statistics.stdev(values)
    return max(0.0, mean - width), mean + width
