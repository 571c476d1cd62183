"""Prompts from a file or a data set."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError
from .presets import presets_root
from .tables import HUB_ID, Faults, csv_rows, jsonl_rows, numbered_lines, open_dataset, parquet_column

SHIPPED_PREFIX = "preset:"
LARGEST_SEED = 2**63 - 1
EXTRAS = ("seed", "width", "height")
MEND = "write a prompt in each line, or remove the line"


@dataclass(frozen=True)
class Prompt:
    """What an image is made from. ``width`` and ``height`` are pixels; None: not said."""

    text: str
    seed: int | None = None
    width: int | None = None
    height: int | None = None


def read_prompts(source: str, text_column: str = "text", split: str = "train") -> list[Prompt]:
    """All prompts of ``source``, in order.

    ``source`` is a .txt file (a prompt in each line), .jsonl (an object in each line: text, and where wanted seed, width and
    height), .csv or .parquet (a column of text), a data set of the Hub or a folder laid out like one; ``preset:FILE`` lies
    beside the shipped presets.

    Raises UsageError where there is nothing to read or no prompt in it, or with all faults of a file, each with its line.
    """
    shipped = source.startswith(SHIPPED_PREFIX)
    path = presets_root() / source.removeprefix(SHIPPED_PREFIX) if shipped else Path(source)
    if path.is_file() and path.suffix.lower() not in _READERS:
        raise UsageError(f"{path}: prompts are not read from such files", f"name one of {', '.join(_READERS)}")
    if path.is_file():
        faults = Faults(path)
        prompts = _READERS[path.suffix.lower()](path, text_column, faults)
        faults.refuse(MEND)
    elif path.is_dir() or (HUB_ID.fullmatch(source) and path.suffix.lower() not in _READERS):
        faults = Faults(source)
        prompts = _prompts_of(enumerate(open_dataset(source, split, [text_column])[text_column], 1), faults)
        faults.refuse("leave those rows out of the data set")
    else:
        raise UsageError(f"there are no prompts at {path}", f"name a {', '.join(_READERS)} file, or a data set as OWNER/NAME")
    if not prompts:
        raise UsageError(f"{source} holds no prompts", MEND)
    return prompts


def _read_txt(path: Path, text_column: str, faults: Faults) -> list[Prompt]:
    return _prompts_of(numbered_lines(path), faults)


def _read_csv(path: Path, text_column: str, faults: Faults) -> list[Prompt]:
    return _prompts_of(((line, row[text_column]) for line, row in csv_rows(path, [text_column], faults)), faults)


def _read_parquet(path: Path, text_column: str, faults: Faults) -> list[Prompt]:
    return _prompts_of(enumerate(parquet_column(path, text_column), 1), faults)


def _read_jsonl(path: Path, text_column: str, faults: Faults) -> list[Prompt]:
    prompts = []
    for line, row in jsonl_rows(path, faults):
        what = _fault_of(row, text_column)
        if what is None:
            prompts.append(Prompt(row[text_column].strip(), *(row.get(name) for name in EXTRAS)))
        else:
            faults.add(line, what)
    return prompts


_READERS: dict[str, Callable[[Path, str, Faults], list[Prompt]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _prompts_of(texts: Iterable[tuple[int, Any]], faults: Faults) -> list[Prompt]:
    prompts = []
    for line, text in texts:
        if isinstance(text, str) and text.strip():
            prompts.append(Prompt(text.strip()))
        else:
            faults.add(line, "is empty" if text is None or isinstance(text, str) else f"is not text but {text!r:.40}")
    return prompts


def _fault_of(row: dict[str, Any], text_column: str) -> str | None:
    """What is wrong with a row of a .jsonl file."""
    text = row.get(text_column)
    if not isinstance(text, str) or not text.strip():
        return f"{text_column} is missing" if text_column not in row else f"{text_column} is not a prompt: {text!r:.40}"
    for name in EXTRAS:
        value, least = row.get(name), 0 if name == "seed" else 1
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST_SEED):
            return f"{name} must be a whole number of at least {least}, not {value!r:.40}"
    for name in row:
        # Other columns are someone else's; a slip in one of ours would silently change the picture.
        close = difflib.get_close_matches(name, EXTRAS, n=1, cutoff=0.75)
        if close and name not in (*EXTRAS, text_column):
            return f"unknown key {name}; did you mean {close[0]}?"
    return None
