"""The numbers that a student or a teacher can be asked for: one rule for the command line and for Python."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import UsageError
from ..presets.bounds import (
    BATCH,
    EVALUATIONS,
    FRAMES,
    GUIDANCE,
    IMAGES,
    MEASURED,
    SCALE,
    SHIFT,
    SIDE,
    SUBSTEPS,
    TEACHER_STEPS,
    WIDTH,
    Bound,
)
from ..presets.choices import TEMPERATURES, BasePrecision, is_number, is_temperature

Offload = Literal["none", "model", "sequential", "group"]
LARGEST_VALUE = 2**63 - 1
_INT64 = Bound(LARGEST_VALUE, "which is the largest number that a seed can be")


@dataclass(frozen=True)
class WholeNumbers:
    """Whole numbers from ``least`` up to ``bound``."""

    least: int
    bound: Bound

    def fault(self, value: object) -> str | None:
        """What is wrong with ``value``; None where nothing is."""
        if isinstance(value, bool) or not isinstance(value, int):
            return f"must be a whole number, not {value!r}"
        return f"must be at least {self.least}, not {value}" if value < self.least else self.bound.fault(value)


WHOLE: Mapping[str, WholeNumbers] = {
    "labels": WholeNumbers(0, _INT64),
    "seeds": WholeNumbers(0, _INT64),
    "num_images": WholeNumbers(1, MEASURED),
    "height": WholeNumbers(1, SIDE),
    "width": WholeNumbers(1, SIDE),
    "frames": WholeNumbers(1, FRAMES),
    "steps": WholeNumbers(1, EVALUATIONS),
    "teacher_steps": WholeNumbers(1, TEACHER_STEPS),
    "fine_steps": WholeNumbers(1, TEACHER_STEPS),
    "substeps": WholeNumbers(1, SUBSTEPS),
    "batch_size": WholeNumbers(1, BATCH),
    "at": WholeNumbers(1, EVALUATIONS),
    "rank": WholeNumbers(1, WIDTH),
}
"""The limits of a request's fields, by their names: all requests mean the same by one name."""
# A field of them is not left out by naming none.
NEVER_EMPTY = ("labels", "seeds")


def check_temperature(value: float | str, told: str | None = None) -> float | str:
    """``auto``, or a number above 0 and at most 1; ``told`` is the value as typed, for the message."""
    if not is_temperature(value):
        raise UsageError(
            f"--temperature {value if told is None else told}: not {TEMPERATURES}", "type --temperature auto"
        )
    return value


def check_stochastic(value: float, told: str | None = None) -> float:
    """The share of re-noising between evaluations: 0 is the ODE, inf re-noises fully."""
    if not (is_number(value) and value >= 0):
        raise UsageError(
            f"--stochastic {value if told is None else told}: not a number of at least 0, or inf",
            "type --stochastic 0, 1 or inf",
        )
    return value


def check_shift(value: float) -> float:
    """A number above 0."""
    if not (is_number(value) and 0 < value < math.inf):
        raise UsageError(f"--shift {value}: not a number above 0", "type --shift 3.2, or leave it out")
    SHIFT.option("--shift")(value)
    return value


def check_guidance(value: float, told: str | None = None) -> float:
    """A guidance scale of at least 1; 1 is no guidance."""
    if not (is_number(value) and 1 <= value < math.inf):
        raise UsageError(
            f"--guidance {value if told is None else told}: not a number of at least 1",
            "type --guidance 3.5, or leave it out",
        )
    GUIDANCE.option("--guidance")(value)
    return value


def check_lora(lora: tuple[str, float], told: str | None = None) -> tuple[str, float]:
    """The path of a LoRA, and a scale that is a number."""
    path, scale = lora
    if not path or not (is_number(scale) and math.isfinite(scale)):
        raise UsageError(
            f"--lora {f'{path}:{scale}' if told is None else told}: not a path, or a path and a scale",
            "write it like --lora style.safetensors:0.8",
        )
    SCALE.option("--lora's scale")(abs(scale))
    return lora


CHECKS: Mapping[str, Callable[..., object]] = {
    "temperature": check_temperature,
    "stochastic": check_stochastic,
    "shift": check_shift,
    "guidance": check_guidance,
}
CHOICES: Mapping[str, tuple[str, ...]] = {"offload": get_args(Offload), "base_precision": get_args(BasePrecision)}


def faults_of(request: object, most_seeds: Bound = IMAGES) -> Iterator[str]:
    """The faults of a request's numbers."""
    for name, whole in WHOLE.items():
        if (value := getattr(request, name, None)) is not None:
            values = value if isinstance(value, (tuple, range)) else (value,)
            yield from (f"{option_of(name)} {fault}" for fault in _faults_of_numbers(name, whole, values))
    seeds = getattr(request, "seeds", None)
    if seeds is not None and (fault := most_seeds.fault(len(seeds))) is not None:
        yield f"--seeds {fault}"
    for name, check in CHECKS.items():
        if (value := getattr(request, name, None)) is not None:
            yield from _said(check, value)
    for lora in getattr(request, "loras", ()):
        yield from _said(check_lora, lora)
    for name, choices in CHOICES.items():
        if (value := getattr(request, name, None)) is not None and value not in choices:
            yield f"{option_of(name)} must be one of {', '.join(choices)}, not {value!r}"


def _faults_of_numbers(name: str, whole: WholeNumbers, values: Sequence[object]) -> Iterator[str]:
    if not values and name in NEVER_EMPTY:
        yield "names none"
    if (fault := next((fault for value in values if (fault := whole.fault(value)) is not None), None)) is not None:
        yield fault
    elif len(set(values)) < len(values):
        twice = next(value for value, count in Counter(values).items() if count > 1)
        yield f"names {twice} twice"


def option_of(name: str) -> str:
    """The option of the command line for a field of a request."""
    return f"--{name.replace('_', '-')}"


def listed(faults: Sequence[str]) -> str:
    """One fault as a message, several as a list."""
    return faults[0] if len(faults) == 1 else "\n  ".join([f"{len(faults)} faults:", *faults])


def _said(check: Callable[..., object], value: object) -> Iterator[str]:
    try:
        check(value)
    except UsageError as error:
        yield error.message
