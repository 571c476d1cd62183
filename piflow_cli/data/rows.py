"""Rows of text files and data sets, and the place of every fault in them."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from ..errors import UsageError, first_line

if TYPE_CHECKING:
    from datasets import Dataset

MOST_SHOWN = 10
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

TEXT_OPTION, IMAGE_OPTION = "--text-column {}", "--set data.image_column={}"
# Usual names of columns, the likeliest first.
USUAL = {TEXT_OPTION: ("text", "prompt", "caption", "txt"), IMAGE_OPTION: ("image", "img", "jpg", "png", "webp")}
# The longer one first: what begins UTF-32 begins UTF-16 too.
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LINE_END = re.compile(r"\r\n|\n|\r")

NumberedRow = tuple[int, dict[str, Any]]
"""Line number, from 1, and the values by column."""


class Faults:
    """The faults of one file, collected so that all are reported at once."""

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
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 text", _conversion(path, data)) from error
    if "\0" in text:
        # Zeros are valid UTF-8, but what has them is UTF-16 without its mark, or no text.
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 text, it has zeros in it", _conversion(path, data))
    return text


def names_dataset(source: str) -> bool:
    """Whether ``source`` reads like OWNER/NAME on the Hub; where there is a folder OWNER, something in it was meant."""
    return _HUB_ID.fullmatch(source) is not None and not Path(source.partition("/")[0]).exists()


def is_text(value: object) -> TypeGuard[str]:
    """Whether ``value`` is text that can be written down: JSON can hold halves of characters."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _conversion(path: Path, data: bytes) -> str:
    """The command that makes a file UTF-8, by its byte-order mark or its zeros; else it is taken for Latin-1."""
    found = [name for mark, name in MARKS.items() if data.startswith(mark)]
    if not found and b"\0" in data:
        found = ["UTF-16LE" if data.index(0) % 2 else "UTF-16BE"]
    aside = path.with_name(f"{path.stem}-utf8{path.suffix}")
    encoding = found[0] if found else "LATIN1"
    return f"convert it: iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(aside))}"


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Lines with their numbers from 1, without line ends; the end of the file ends a line or follows one."""
    # splitlines() would also break a prompt at a form feed or at a Unicode separator.
    lines = LINE_END.split(read_text(path))
    if lines[-1] == "":
        lines.pop()
    return [] if lines == [""] else list(enumerate(lines, 1))


def jsonl_rows(path: Path, faults: Faults) -> Iterator[NumberedRow]:
    """The objects of a JSON-lines file; empty lines and lines that are no object are faults."""
    for number, line in numbered_lines(path):
        if not line.strip():
            faults.add(number, "is empty")
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = (
                "nested too deeply"
                if isinstance(error, RecursionError)
                else getattr(error, "msg", "a number is too long")
            )
            faults.add(number, f"not valid JSON: {why}")
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            faults.add(number, "not a JSON object")


def csv_rows(
    path: Path, wanted: Mapping[str, str], faults: Faults, known: Collection[str] = ()
) -> Iterator[NumberedRow]:
    """The rows of a CSV file whose first line names the columns; raises UsageError as :func:`check_columns` does."""
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        columns = rows.fieldnames if rows.fieldnames is not None else []
        # Spreadsheets of many countries write so; what stands beside a text would be drawn with it.
        if len(columns) == 1 and (found := [mark for mark in (";", "\t") if mark in columns[0]]):
            mark = {";": "semicolons", "\t": "tabs"}[found[0]]
            raise UsageError(f"{path}: its columns are apart by {mark}", "save it again with commas between them")
        check_columns(path, columns, wanted, known)
        for row in rows:
            # csv puts surplus cells under None, and fills missing ones with it.
            if None in row or None in row.values():
                faults.add(rows.line_num, f"has {'more' if None in row else 'fewer'} values than there are columns")
            else:
                yield rows.line_num, row
    except csv.Error as error:
        faults.add(rows.line_num, f"not valid CSV: {error}")


def parquet_rows(path: Path, wanted: Mapping[str, str], known: Collection[str] = ()) -> Iterator[NumberedRow]:
    """Columns of a Parquet file by row: those ``wanted``, and of the ``known`` those that are there.

    Raises UsageError as :func:`check_columns` does, and where the file is damaged or of another kind.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(path)
        columns = schema.names
        texts = [
            name for name, kind in zip(columns, schema.types) if kind in (pyarrow.string(), pyarrow.large_string())
        ]
        check_columns(path, columns, wanted, known, texts)
        chosen = [name for name in columns if name in wanted or name in known]
        rows = parquet.read_table(path, columns=chosen, page_checksum_verification=True).to_pylist()
    except PermissionError:
        raise
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a Parquet file, or is damaged", "copy or download it again") from error
    return enumerate(rows, 1)


def open_dataset(source: str, split: str, wanted: Mapping[str, str]) -> Dataset:
    """One split of a data set of the Hub, or of a folder that is laid out like one.

    Raises UsageError where it cannot be had, with the reason, and as :func:`check_columns` does.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        dataset = datasets.load_dataset(source, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise UsageError(
            f"cannot read the split {split} of the data set {source}: {first_line(error)}",
            "check its name and the network; where it is gated, accept its terms and type: hf auth login",
        ) from error
    finally:
        if shown:
            datasets.enable_progress_bars()
    texts = [
        name for name, kind in dataset.features.items() if getattr(kind, "dtype", None) in ("string", "large_string")
    ]
    check_columns(source, dataset.column_names, wanted, texts=texts)
    return dataset


def check_columns(
    source: str | Path,
    columns: Sequence[str],
    wanted: Mapping[str, str],
    known: Collection[str] = (),
    texts: Sequence[str] | None = None,
) -> None:
    """Raise UsageError for a ``wanted`` column that is missing, one that is there twice, or a slip in a ``known`` one.

    ``wanted``: the option that names another column instead, with {} for its name, as TEXT_OPTION has it; "" where
    there is none. ``texts``: those of the columns that hold texts, where that is known.
    """
    for name, option in wanted.items():
        if name not in columns:
            found = ", ".join(columns) if columns else "none"
            raise UsageError(
                f"{source} has no column {name}; it has {found}",
                naming(texts if texts and option == TEXT_OPTION else columns, option, name),
            )
    if twice := [name for name in dict.fromkeys([*wanted, *known]) if columns.count(name) > 1]:
        raise UsageError(f"{source} has two columns {twice[0]}", "give one of them another name, or take it out")
    slip = slip_among([name for name in columns if name not in wanted], known)
    if slip is not None:
        raise UsageError(
            f"{source} has an unknown column {slip[0]}; did you mean {slip[1]}?", f"call it {slip[1]}, or take it out"
        )


def slip_among(names: Sequence[str], known: Collection[str]) -> tuple[str, str] | None:
    """The first of ``names`` that is a misspelling of a ``known`` one, and that one, unless it is there too."""
    for name in names:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        if close and name not in known and close[0] not in names:
            return name, close[0]
    return None


def naming(columns: Sequence[str], option: str, name: str) -> str:
    """The option that takes the likeliest of ``columns`` in place of ``name``."""
    if not columns or not option:
        return f"name a column {name}"
    usual = USUAL[option]
    likely = min(columns, key=lambda column: usual.index(column.lower()) if column.lower() in usual else len(usual))
    return f"name the one that is meant: {option.format(shlex.quote(likely))}"
