"""What reports say of students: the newest number of each, read from the files that `piflow eval` has left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..students.naming import student_names, student_place
from .metric_kinds import HEADLINE
from .report_folder import NUMBERS


@dataclass(frozen=True)
class ReportedNumber:
    """A number of a report, with what it is of; ``moment``: when the report was written, in seconds since 1970."""

    value: float
    images: int
    nfe: int
    extractor: str | None
    reference: str | None
    report: Path
    moment: float

    @property
    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def newest_numbers(evals: Path) -> dict[tuple[Path, int], ReportedNumber]:
    """The newest number in the reports below ``evals`` for each student at a number of evaluations.

    Students are at their :func:`~piflow_cli.students.naming.student_place`. A path in a report means what it did where
    the command was typed, which is taken to be the folder that ``evals`` lies in. Of several extractors the first one
    counts. What is no report is passed over.
    """
    found: dict[tuple[Path, int], ReportedNumber] = {}
    for report in sorted(evals.glob(f"*/{NUMBERS}")):
        for key, number in _numbers_of(report, evals.resolve().parent):
            # The first number of a report stays: another extractor follows in the same one.
            if key not in found or number.moment > found[key].moment:
                found[key] = number
    return found


def _numbers_of(report: Path, typed_in: Path) -> Iterator[tuple[tuple[Path, int], ReportedNumber]]:
    try:
        moment = report.stat().st_mtime
        told = json.loads(report.read_text(encoding="utf-8"))
        places = _places(told, typed_in)
        rows = [row for row in told["results"] if row["metric"] == HEADLINE and row["kind"] == "student"]
        numbers = [
            ReportedNumber(
                float(row["value"]), int(row["images"]), int(row["nfe"]), row.get("extractor"), row.get("reference"),
                report, moment,
            )
            for row in rows
        ]  # fmt: skip
        keys = [(places[row["model"]], number.nfe) for row, number in zip(rows, numbers)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    yield from zip(keys, numbers)


def _places(told: Mapping[str, Any], typed_in: Path) -> dict[str, Path]:
    """The place of each student of a report by the name that its rows have."""
    inside = told.get("subfolder")
    names = student_names(told["students"], inside)
    return {
        name: student_place(typed_in / student / ("" if inside is None else inside))
        for name, student in zip(names, told["students"], strict=True)
    }
