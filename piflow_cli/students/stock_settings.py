"""Settings of a PiflowScheduler of diffusers beside a network: that it is a DX student, and how it is sampled."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunError, UsageError
from .fact_ranges import out_of_range

SCHEDULER = "PiflowScheduler"
SETTINGS = "scheduler/scheduler_config.json"
OTHER = "name a student, or copy it again"
# What the file calls facts of a student, and which of them are whole numbers.
NAMES = {
    "shift": "shift",
    "n_grid": "components",
    "final_step_size_scale": "final_step_scale",
    "num_policy_substeps": "substeps",
    "nfe": "nfe",
}
WHOLE = ("components", "substeps", "nfe")


@dataclass(frozen=True)
class StockSettings:
    """What such settings say, by the names of a student's facts; defaults are those of the class of diffusers.

    ``nfe``: evaluations that the student was trained for, of which that class knows nothing; None: not said.
    """

    shift: float = 5.0
    components: int = 10
    final_step_scale: float = 0.5
    substeps: int = 128
    nfe: int | None = None


def is_stock_student(pipeline: Path) -> bool:
    """Whether the network of the ``pipeline`` of diffusers in that folder is a DX student, by its scheduler."""
    path = pipeline / SETTINGS
    return path.is_file() and _read(path).get("_class_name") == SCHEDULER


def settings_beside(weights: Path) -> StockSettings | None:
    """The settings beside the network whose ``weights`` these are; None where no scheduler lies there.

    Raises:
        UsageError: it is another scheduler, and so the network is no student, or values are impossible.
        RunError: the file is damaged.
    """
    path = weights.parent.parent / SETTINGS
    if not path.is_file():
        return None
    told = _read(path)
    if (found := told.get("_class_name")) != SCHEDULER:
        raise UsageError(
            f"{weights.parent} holds no student: the scheduler beside it is a {found}, and no {SCHEDULER}", OTHER
        )
    values = {ours: told[theirs] for theirs, ours in NAMES.items() if told.get(theirs) is not None}
    wrong = [f"{name} is {value!r}" for name, value in values.items() if not _is_number(value, name in WHOLE)]
    if faults := wrong or list(out_of_range(values)):
        raise UsageError(f"{path} is of no student: {'; '.join(faults)}", OTHER)
    return StockSettings(**values)


def _is_number(value: object, whole: bool) -> bool:
    kind = int if whole else (int, float)
    return isinstance(value, kind) and not isinstance(value, bool) and 0 < value < math.inf


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path} is damaged: it is no JSON object", "copy it again") from error
