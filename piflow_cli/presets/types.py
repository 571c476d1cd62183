"""The types of a preset's values: what is allowed, and how large it may be (:mod:`piflow_cli.presets.bounds`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainValidator, Strict

from piflow_cli.presets import bounds
from piflow_cli.presets.budgets import FORMS, LEAST, MOST, check_budget, in_units
from piflow_cli.presets.choices import TEMPERATURES, is_temperature
from piflow_cli.presets.lora_texts import FORM, check_loras


@dataclass(frozen=True)
class TypeWords:
    """The words for a type and its bounds in the manual, where a program cannot read them off its check."""

    type: str
    bounds: str


def as_temperature(value: object) -> float | str:
    """`auto` or a number in (0, 1]; raises ValueError otherwise."""
    if not is_temperature(value):
        raise ValueError(f"must be {TEMPERATURES}, not {value!r}")
    return value if isinstance(value, str) else float(value)


def check_name(value: str) -> str:
    """A name that a folder of runs can have; raises ValueError otherwise."""
    if value != value.strip() or value.startswith(("-", ".")) or not value.isprintable() or {"/", "\\"} & set(value):
        raise ValueError(
            f"must be a folder's name, without slashes and no dash, dot or space before it, not {value!r:.60}"
        )
    return value


def check_sizes(value: object) -> tuple[tuple[int, int], ...]:
    """A list of [width, height] pairs of whole numbers of pixels; raises ValueError otherwise."""
    pairs = value if isinstance(value, (list, tuple)) else [value]
    for pair in pairs:
        sides = pair if isinstance(pair, (list, tuple)) else []
        if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
            raise ValueError(
                f"must be a list of [width, height] in pixels, as in [[1024, 1024], [832, 1216]], not {value!r:.60}"
            )
        for side in sides:
            bounds.SIDE.check(side)
    return tuple((width, height) for width, height in pairs)


# Strict: a quoted "3" or a `yes` where a number belongs is a slip to report, not a value to convert.
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[
    str,
    Field(min_length=1),
    AfterValidator(check_name),
    TypeWords("text", "without slashes, and no dash, dot or space before it"),
]
Flag = Annotated[bool, Strict()]
Evaluations = Annotated[int, Strict(), Field(ge=1), AfterValidator(bounds.EVALUATIONS.check)]
Substeps = Annotated[int, Strict(), Field(ge=1), AfterValidator(bounds.SUBSTEPS.check)]
Window = Annotated[int, Strict(), Field(ge=0), AfterValidator(bounds.SUBSTEPS.check)]
Components = Annotated[int, Strict(), Field(ge=1), AfterValidator(bounds.COMPONENTS.check)]
Width = Annotated[int, Strict(), Field(ge=1), AfterValidator(bounds.WIDTH.check)]
Side = Annotated[int, Strict(), Field(ge=1), AfterValidator(bounds.SIDE.check)]
Frames = Annotated[int, Strict(), Field(ge=1), AfterValidator(bounds.FRAMES.check)]
Iterations = Annotated[int, Strict(), Field(ge=1), AfterValidator(bounds.ITERATIONS.check)]
Interval = Annotated[int, Strict(), Field(ge=0), AfterValidator(bounds.ITERATIONS.check)]
BatchSize = Annotated[int, Strict(), Field(ge=1), AfterValidator(bounds.BATCH.check)]
SampleCount = Annotated[int, Strict(), Field(ge=1), AfterValidator(bounds.SAMPLES.check)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**63)]
NonNegative = Annotated[float, Strict(), Field(ge=0), AfterValidator(bounds.NUMBER.check)]
Positive = Annotated[float, Strict(), Field(gt=0), AfterValidator(bounds.NUMBER.check)]
Shift = Annotated[float, Strict(), Field(gt=0), AfterValidator(bounds.SHIFT.check)]
GuidanceScale = Annotated[float, Strict(), Field(ge=1), AfterValidator(bounds.GUIDANCE.check)]
Ratio = Annotated[float, Strict(), Field(ge=1), AfterValidator(bounds.RATIO.check)]
Rate = Annotated[float, Strict(), Field(gt=0), AfterValidator(bounds.RATE.check)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
Probability = Annotated[float, Strict(), Field(ge=0, lt=1)]
Sizes = Annotated[
    tuple[tuple[int, int], ...],
    PlainValidator(check_sizes),
    TypeWords("list of [width, height]", f"each at least 1, at most {bounds.SIDE.text}"),
]
Loras = Annotated[
    tuple[str, ...],
    PlainValidator(check_loras),
    TypeWords(f"list of {FORM}", f"each at most {bounds.SCALE.text}"),
]
BudgetText = Annotated[
    str, PlainValidator(check_budget), TypeWords(FORMS, f"at least {LEAST}s, at most {in_units(MOST)}")
]
Temperature = Annotated[
    float | Literal["auto"], PlainValidator(as_temperature), TypeWords("number or auto", "above 0, at most 1")
]
