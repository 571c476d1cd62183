"""The one sink: data goes to stdout, everything else to stderr; it alone obeys --json and --quiet."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from piflow_cli import streams
from piflow_cli.errors import RunError
from piflow_cli.ranks import is_first

if TYPE_CHECKING:
    from tqdm import tqdm

TERMINAL_INTERVAL = 0.5  # seconds
# A text shows a longer list by its ends and its length; JSON has it all.
LONGEST_LIST = 4


class Console:
    """The output of a command.

    Args:
        json: data is JSON on stdout; stderr carries JSON lines only (warnings, the error), so both can be parsed.
        quiet: nothing but data and errors.
        progress: lines of progress all the same, of JSON where data is JSON.
    """

    def __init__(self, json: bool = False, quiet: bool = False, progress: bool = False) -> None:
        # The first of several processes of a run speaks for all.
        self.speaks = is_first()
        self.json = json
        self.quiet = quiet or not self.speaks
        self.logs_progress = progress and self.speaks
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"Console(json={self.json}, quiet={self.quiet})"

    @contextmanager
    def listening(self) -> Generator[None]:
        """Print what the package logs within the context, and hide warnings that nobody can act on.

        For commands, which speak to a person: a library leaves the log and the warnings of its caller alone.
        """
        logger = logging.getLogger("piflow")
        before = logger.handlers[:], logger.level, logger.propagate
        logger.handlers[:] = [_Forward(self)]
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            with warnings.catch_warnings():
                # Pillow warns at half the pixels that data/pictures.py allows, and names when it refuses.
                warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
                # Classes of diffusers ask for each other by names that it deprecates.
                warnings.filterwarnings("ignore", category=FutureWarning, module=r"diffusers\.models")
                # Older versions of diffusers know no other name of it.
                warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
                yield
        finally:
            logger.handlers[:], logger.level, logger.propagate = before

    def say(self, text: str) -> None:
        """News for the person watching, on stderr; silent with --json and --quiet."""
        if not (self.json or self.quiet):
            _write_error(text)

    def warn(self, text: str) -> None:
        """A warning on stderr, once per text; silent with --quiet."""
        if self.quiet or text in self._warned:
            return
        self._warned.add(text)
        _write_error(dumps({"warning": text}) if self.json else f"Warning: {text}")

    def table(self, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
        """Rows of data on stdout: aligned text under `columns`, or a JSON list of objects with these keys."""
        picked = [{column: row[column] for column in columns} for row in rows]
        self._data(dumps(picked) if self.json else format_table(picked, columns))

    def result(self, data: Mapping[str, object], text: str) -> None:
        """The command's result, on stdout: `data` with --json, else `text`."""
        self._data(dumps(data) if self.json else text)

    def _data(self, text: str) -> None:
        if self.speaks:
            _write_data(text)

    def progress(self, total: int, initial: int = 0, description: str = "") -> tqdm:
        """A progress bar on stderr (use it as a context manager); nothing with --json and --quiet, unless asked for.

        In a terminal it is redrawn twice a second; a log file gets a line at times.
        """
        if self.json or self.quiet or self.logs_progress or not streams.err().isatty():
            from piflow_cli.progress import JsonLines, ProgressLines

            silent = (self.json or self.quiet) and not self.logs_progress
            kind = JsonLines if self.json else ProgressLines
            return kind(total, initial=initial, desc=description, file=streams.err(), disable=silent)
        from tqdm import tqdm

        return tqdm(
            total=total,
            initial=initial,
            desc=description,
            file=streams.err(),
            mininterval=TERMINAL_INTERVAL,
            dynamic_ncols=True,
        )


SILENT = Console(quiet=True)
"""For calls that nobody watches: says nothing, and remembers nothing."""


class _Forward(logging.Handler):
    """A handler that prints what rooms without a console, the core among them, log to ``piflow.*``."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        speak = self.console.warn if record.levelno >= logging.WARNING else self.console.say
        speak(record.getMessage())


def format_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str], screen: float | None = None) -> str:
    """Plain text columns, two spaces apart, each as wide as its widest cell.

    ``screen``: the columns of letters that a line may have, by default those of the terminal, without end elsewhere.
    What does not fit beside the first column comes below in tables of its own, each with that column.
    """
    lines = [[column.upper() for column in columns]]
    lines += [[format_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    tables = _folded(widths, _screen() if screen is None else screen)
    return "\n\n".join(
        "\n".join("  ".join(line[i].ljust(widths[i]) for i in table).rstrip() for line in lines) for table in tables
    )


def _folded(widths: Sequence[int], screen: float) -> list[list[int]]:
    """The columns of each table: the first column, and as many others as fit, at least one."""
    tables, room = [[0]], 0.0
    for column, width in enumerate(widths[1:], start=1):
        room = (screen - widths[0] if len(tables[-1]) == 1 else room) - 2 - width
        if room < 0 and len(tables[-1]) > 1:
            tables.append([0])
            room = screen - widths[0] - 2 - width
        tables[-1].append(column)
    return tables


def _screen() -> float:
    return shutil.get_terminal_size().columns if streams.out().isatty() else math.inf


def format_pairs(data: Mapping[str, object]) -> str:
    """`name  value` lines with the values aligned; a nested mapping becomes a titled, indented block."""
    lines: list[str] = []
    width = max((len(_title(key)) for key, value in data.items() if not isinstance(value, Mapping)), default=0)
    for key, value in data.items():
        if isinstance(value, Mapping):
            lines += [_title(key), *("  " + line for line in format_pairs(value).splitlines())]
        else:
            lines.append(f"{_title(key).ljust(width)}  {format_cell(value)}".rstrip())
    return "\n".join(lines)


def dumps(value: object) -> str:
    """One line of JSON that every parser accepts: NaN becomes null, infinities the strings "inf" and "-inf"."""
    return json.dumps(plain(value), allow_nan=False)


def plain(value: Any) -> Any:
    """The nearest JSON value: paths and unknown objects as text, array scalars as numbers, tuples and sets as lists."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return [plain(item) for item in sorted(value)]
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def _finite(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else str(float(value))


def _title(key: object) -> str:
    return str(key).replace("_", " ")


def format_cell(value: object) -> str:
    """A value as tables and lists show it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        shown = value if len(value) <= LONGEST_LIST else [value[0], "...", value[-1]]
        return ", ".join(format_cell(item) for item in shown) + (
            f" ({len(value)})" if len(value) > LONGEST_LIST else ""
        )
    return str(value)


def _write_data(text: str) -> None:
    try:
        # Flushed here, so that a reader who has gone away is noticed while errors are still caught.
        print(text, file=streams.out(), flush=True)
    except BrokenPipeError as error:
        raise RunError(
            "what was reading the output has gone", "let it read to the end, or write to a file: > FILE"
        ) from error
    except OSError as error:
        raise unprinted(error) from error


def unprinted(error: OSError) -> RunError:
    """The error for a result that stdout did not take."""
    return RunError(f"the result cannot be printed: {error.strerror}", "write it where there is room: > FILE")


def _write_error(text: str) -> None:
    tqdm_module = sys.modules.get("tqdm")
    if tqdm_module is None or not streams.err().isatty():
        print(text, file=streams.err(), flush=True)
    else:
        # Through tqdm a line lands above a bar that is being drawn, not in the middle of it.
        tqdm_module.tqdm.write(text, file=streams.err())
