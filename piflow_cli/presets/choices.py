"""Choices that presets, options and files share."""

from __future__ import annotations

import math
from typing import Literal, TypeGuard

BasePrecision = Literal["fp32", "bf16", "fp8", "int8", "nf4"]
"""Precisions of a frozen base."""
BITSANDBYTES = ("int8", "nf4")
"""Those that need CUDA and bitsandbytes."""
RecipeName = Literal["published", "best"]
"""Recipes of a preset."""
PUBLISHED = "published"
TrackerName = Literal["none", "tensorboard", "wandb", "trackio", "mlflow", "aim", "comet", "swanlab"]
"""Trackers of experiments that a run may be shown in."""
NO_TRACKER = "none"
AUTO = "auto"
TEMPERATURES = f"{AUTO} or a number above 0 and at most 1"


def is_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a number, and neither a truth value nor NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def is_temperature(value: object) -> TypeGuard[float | Literal["auto"]]:
    """Whether ``value`` is one of TEMPERATURES."""
    return value == AUTO if isinstance(value, str) else is_number(value) and 0 < value <= 1
