"""Prompts from a file or a data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..presets.folders import SHIPPED_PREFIX, beside_presets
from .rows import (
    TEXT_OPTION,
    Faults,
    NumberedRow,
    csv_rows,
    is_text,
    jsonl_rows,
    names_dataset,
    naming,
    numbered_lines,
    open_dataset,
    parquet_rows,
    slip_among,
)

TEXT_COLUMN = "text"
# Bounds of a seed and of a side in pixels: seeds fit into 64 bits, and no network makes larger pictures.
EXTRAS = {"seed": (0, 2**63 - 1), "width": (1, 1 << 16), "height": (1, 1 << 16)}
MEND = "write a prompt in each line, or remove the line"


@dataclass(frozen=True)
class Prompt:
    """The text of an image, with a seed and a size where they are given.

    ``width`` and ``height`` are pixels, or None.
    """

    text: str
    seed: int | None = None
    width: int | None = None
    height: int | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height; None where one is not said."""
        return None if self.width is None or self.height is None else (self.width, self.height)


def read_prompts(source: str, text_column: str | None = None, split: str = "train") -> list[Prompt]:
    """All prompts of ``source``, in order.

    ``source`` is a .txt file (a prompt in each line), .jsonl (an object in each line), .csv or .parquet, a
    data set of the Hub or a folder laid out like one; ``preset:FILE`` lies beside the shipped presets. All but
    .txt have ``text_column``, and where wanted seed, width and height, all of them whole numbers.
    ``text_column`` None: it is called text.

    Raises UsageError where there is nothing to read or no prompt in it, or with all faults of a file, each with its
    line.
    """
    text_column = TEXT_COLUMN if text_column is None else text_column
    shipped = source.startswith(SHIPPED_PREFIX)
    path = beside_presets(source.removeprefix(SHIPPED_PREFIX)) if shipped else Path(source)
    if path.is_file() and path.suffix.lower() not in _READERS:
        raise UsageError(f"{path}: prompts are not read from such files", f"name one of {', '.join(_READERS)}")
    if path.is_file():
        faults = Faults(path)
        prompts = _READERS[path.suffix.lower()](path, text_column, faults)
        faults.refuse(MEND)
    elif path.is_dir() or (names_dataset(source) and path.suffix.lower() not in _READERS):
        faults = Faults(source)
        dataset = open_dataset(source, split, {text_column: TEXT_OPTION})
        columns = [name for name in dataset.column_names if name == text_column or name in EXTRAS]
        prompts = _prompts_of(enumerate(dataset.select_columns(columns), 1), text_column, faults)
        faults.refuse("leave those rows out of the data set")
    else:
        raise UsageError(
            f"there are no prompts at {path}",
            f"name a {', '.join(_READERS)} file, or a data set as OWNER/NAME: --prompts PATH",
        )
    if not prompts:
        raise UsageError(f"{source} holds no prompts", MEND)
    return prompts


def refuse_column_of_lines(source: str | None, text_column: str | None) -> None:
    """Raise UsageError where a ``text_column`` is named of a .txt file, whose lines are the prompts."""
    if text_column is not None and str(source).lower().endswith(".txt"):
        raise UsageError(f"--text-column {text_column}: {source} has no columns", "leave --text-column out")


def _read_txt(path: Path, text_column: str, faults: Faults) -> list[Prompt]:
    return _prompts_of(((line, {text_column: text}) for line, text in numbered_lines(path)), text_column, faults)


def _read_csv(path: Path, text_column: str, faults: Faults) -> list[Prompt]:
    rows = csv_rows(path, {text_column: TEXT_OPTION}, faults, known=EXTRAS)
    return _prompts_of(((line, _with_numbers(row)) for line, row in rows), text_column, faults)


def _read_parquet(path: Path, text_column: str, faults: Faults) -> list[Prompt]:
    return _prompts_of(parquet_rows(path, {text_column: TEXT_OPTION}, known=EXTRAS), text_column, faults)


def _read_jsonl(path: Path, text_column: str, faults: Faults) -> list[Prompt]:
    rows, others = [], {}
    for line, row in jsonl_rows(path, faults):
        what = _fault_of_object(row, text_column)
        if what is None:
            rows.append((line, row))
        else:
            faults.add(line, what)
        if text_column not in row:
            others |= {name: None for name, value in row.items() if isinstance(value, str)}
    prompts = _prompts_of(rows, text_column, faults)
    if not prompts and others:
        # No line has the column: then it has another name.
        faults.refuse(naming(list(others), TEXT_OPTION, text_column))
    return prompts


_READERS: dict[str, Callable[[Path, str, Faults], list[Prompt]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _prompts_of(rows: Iterable[NumberedRow], text_column: str, faults: Faults) -> list[Prompt]:
    prompts = []
    for line, row in rows:
        what = _fault_of_row(row, text_column)
        if what is None:
            prompts.append(Prompt(row[text_column].strip(), *(row.get(name) for name in EXTRAS)))
        else:
            faults.add(line, what)
    return prompts


def _fault_of_row(row: Mapping[str, Any], text_column: str) -> str | None:
    """What is wrong with a row that has a text."""
    text = row[text_column]
    if text is None or (isinstance(text, str) and not text.strip()):
        return "is empty"
    if not is_text(text):
        return f"is not text but {text!r:.40}"
    for name, (least, most) in EXTRAS.items():
        value = row.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            return f"{name} must be a whole number of at least {least}, not {value!r:.40}"
        if value is not None and value > most:
            return f"{name} {value} is too large: at most {most}"
    return None


def _fault_of_object(row: Mapping[str, Any], text_column: str) -> str | None:
    """What is wrong with the text or the keys of a line of a .jsonl file."""
    text = row.get(text_column)
    if not isinstance(text, str) or not text.strip():
        return f"{text_column} is missing" if text_column not in row else f"{text_column} is not a prompt: {text!r:.40}"
    # Other columns are someone else's; a slip in one of ours would silently change the picture.
    slip = slip_among([name for name in row if name != text_column], EXTRAS)
    return None if slip is None else f"unknown key {slip[0]}; did you mean {slip[1]}?"


def _with_numbers(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of a .csv file whose whole numbers are numbers; what is none stays text, and is refused as such."""
    numbers = {}
    for name in EXTRAS:
        if (text := row.get(name, "").strip()) == "":
            numbers[name] = None
        else:
            numbers[name] = int(text) if re.fullmatch("-?[0-9]{1,19}", text) else text
    return {**row, **numbers}
