"""Rows of text files and data sets, with the place of everything that is wrong in them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError

if TYPE_CHECKING:
    from datasets import Dataset

MOST_SHOWN = 10
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

Row = tuple[int, dict[str, Any]]
"""Line number, from 1, and the values by column."""


class Faults:
    """What is wrong with one file, collected so that all of it is said at once."""

    def __init__(self, source: str | Path) -> None:
        self.source = source
        self.found: list[tuple[int, str]] = []

    def add(self, line: int, what: str) -> None:
        self.found.append((line, what))

    def refuse(self, hint: str) -> None:
        """Raise one UsageError with the first faults and the number of all; return if there is none."""
        if not self.found:
            return
        if len(self.found) == 1:
            line, what = self.found[0]
            raise UsageError(f"{self.source}:{line}: {what}", hint)
        rows = [f"line {line}: {what}" for line, what in sorted(self.found)[:MOST_SHOWN]]
        if len(self.found) > MOST_SHOWN:
            rows.append(f"and {len(self.found) - MOST_SHOWN} more")
        raise UsageError("\n  ".join([f"{self.source}: {len(self.found)} faults:", *rows]), hint)


def read_text(path: Path) -> str:
    """A UTF-8 text file, with or without a byte-order mark; raises UsageError with the line where it is none."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 text", f"convert it: iconv -t UTF-8 {path}") from error


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Lines with their numbers from 1, without line ends; the end of the file ends a line or follows one."""
    # splitlines() would also break a prompt at a form feed or at a Unicode separator.
    lines = read_text(path).removesuffix("\n").split("\n")
    return [] if lines == [""] else [(number, line.removesuffix("\r")) for number, line in enumerate(lines, 1)]


def jsonl_rows(path: Path, faults: Faults) -> Iterator[Row]:
    """The objects of a JSON-lines file; empty lines and lines that are no object are faults."""
    for number, line in numbered_lines(path):
        if not line.strip():
            faults.add(number, "is empty")
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.add(number, f"not valid JSON: {getattr(error, 'msg', 'nested too deeply')}")
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            faults.add(number, "not a JSON object")


def csv_rows(path: Path, wanted: Sequence[str], faults: Faults) -> Iterator[Row]:
    """The rows of a CSV file whose first line names the columns; raises UsageError where a ``wanted`` one is not there."""
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        check_columns(path, rows.fieldnames if rows.fieldnames is not None else [], wanted)
        for row in rows:
            # csv files what is left over under None, and fills what is missing with it.
            if None in row or None in row.values():
                faults.add(rows.line_num, f"has {'more' if None in row else 'fewer'} values than there are columns")
            else:
                yield rows.line_num, row
    except csv.Error as error:
        faults.add(rows.line_num, f"not valid CSV: {error}")


def parquet_column(path: Path, column: str) -> list[Any]:
    """One column of a Parquet file; raises UsageError where there is none, or where the file is no such file."""
    import pyarrow
    from pyarrow import parquet

    try:
        check_columns(path, parquet.read_schema(path).names, [column])
        return parquet.read_table(path, columns=[column]).column(column).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise UsageError(f"{path} is not a Parquet file, or is cut short", "copy or download it again") from error


def open_dataset(source: str, split: str, wanted: Sequence[str]) -> Dataset:
    """One split of a data set of the Hub, or of a folder that is laid out like one.

    Raises UsageError where it cannot be had, with the reason, or where it lacks a ``wanted`` column.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        dataset = datasets.load_dataset(source, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"cannot read the split {split} of the data set {source}: {reason}",
            "check its name and the network; where it is gated, accept its terms and type: hf auth login",
        ) from error
    check_columns(source, dataset.column_names, wanted)
    return dataset


def check_columns(source: str | Path, columns: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise UsageError that names the first of the ``wanted`` columns that is not among ``columns``."""
    for name in wanted:
        if name not in columns:
            found = ", ".join(columns) if columns else "none"
            raise UsageError(
                f"{source} has no column {name}; it has {found}",
                "name them: --set data.text_column=NAME, --set data.image_column=NAME",
            )
