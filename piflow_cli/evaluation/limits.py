"""Limits of numbers, for scripts: an evaluation beyond one has failed, though its report is written."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RunError, UsageError
from .metric_kinds import Number, metric_kinds, metric_numbers
from .rows import titled

ABOVE, BELOW = "--fail-above", "--fail-below"
# Rows that are measured to be compared with.
_OF_TEACHERS = "teacher"


@dataclass(frozen=True)
class NumberLimit:
    """A ``bound`` of the number ``name``; ``option``: on which side of it an evaluation fails."""

    option: str
    name: str
    bound: float

    def __str__(self) -> str:
        return f"{self.option} {self.name}={self.bound:g}"

    def is_broken(self, value: float) -> bool:
        """NaN is within no limit."""
        return not (value <= self.bound if self.option == ABOVE else value >= self.bound)


def parse_limits(above: Sequence[str], below: Sequence[str]) -> tuple[NumberLimit, ...]:
    """The limits written as NAME=NUMBER behind either option.

    Raises:
        UsageError: there is no such number, its limit is no number, or the other side of it is the better one.
    """
    return tuple(_limit(option, text) for option, texts in ((ABOVE, above), (BELOW, below)) for text in texts)


def check_limits(limits: Sequence[NumberLimit], measures: Collection[str]) -> None:
    """Raise UsageError where a limit is of a number that none of the metrics ``measures`` gives."""
    for limit in not_measured(limits, measures):
        raise UsageError(f"{limit}: that is not measured", f"add it: --metrics {','.join([*measures, limit.name])}")


def not_measured(limits: Sequence[NumberLimit], measures: Collection[str]) -> list[NumberLimit]:
    """The limits of numbers that none of the metrics ``measures`` gives."""
    measured = {number.name for kind in metric_kinds() if kind.name in measures for number in kind.numbers}
    return [limit for limit in limits if limit.name not in measured]


def hold(limits: Sequence[NumberLimit], rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise RunError with every number of a student, or of pictures, that is beyond a limit, or was not to be had.

    ``rows``: the results of a report. Of several extractors each has to keep to the limit.
    """
    broken = []
    for limit in limits:
        found = [row for row in rows if row["metric"] == limit.name and row["kind"] != _OF_TEACHERS]
        broken += [_said(limit, row) for row in found if limit.is_broken(row["value"])]
        if not found:
            broken.append(f"{limit.name} was not measured")
    if broken:
        raise RunError("; ".join(broken))


def _limit(option: str, text: str) -> NumberLimit:
    name, _, bound = (part.strip() for part in text.partition("="))
    numbers = metric_numbers()
    by_title = {one.title.lower(): one for one in numbers.values()} | {one.name: one for one in numbers.values()}
    number = by_title.get(name.lower())
    if number is None:
        near = difflib.get_close_matches(name.lower(), numbers, n=1, cutoff=0)[0]
        raise UsageError(f"{option} {text}: there is no number {name!r}", f"type {option} {near}={bound or '0.3'}")
    try:
        value = float(bound)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UsageError(f"{option} {text}: {bound!r} is no number", f"write it like {option} {number.name}=0.3")
    _refuse_other_side(option, number, value)
    return NumberLimit(option, number.name, value)


def _refuse_other_side(option: str, number: Number, value: float) -> None:
    """Raise UsageError for a limit that the better numbers would break."""
    fails = {"lower": ABOVE, "higher": BELOW, None: option}[number.better]
    if fails != option:
        raise UsageError(
            f"{option} {number.name}={value:g}: {number.better} is better", f"type {fails} {number.name}={value:g}"
        )


def _said(limit: NumberLimit, row: Mapping[str, Any]) -> str:
    side = "above" if limit.option == ABOVE else "below"
    nfe = row.get("nfe")
    model = row["model"] if nfe is None else titled(row["model"], row["kind"], nfe)
    told = "" if row.get("extractor") is None else f" by {row['extractor']}"
    return f"{limit.name}{told} of {model} is {row['value']:.4g}, {side} {limit.bound:g}"
