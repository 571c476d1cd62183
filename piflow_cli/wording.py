"""Words that messages share."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from pathlib import Path

SHOWN_NAME = 60


class Bytes(int):
    """A number of bytes that reads as GB (10^9), MB (10^6) or kB (10^3) and is a plain number in JSON."""

    def __str__(self) -> str:
        if self >= 1e9:
            return f"{self / 1e9:.1f} GB"
        # A tenth of a MB is the least that reads as one.
        return f"{self / 1e6:.1f} MB" if self >= 1e5 else f"{self / 1e3:.1f} kB"


def few(names: Collection[str], shown: int = 3, separator: str = ", ") -> str:
    """The first of ``names`` and the number of the others: "a, b, c and 2 more"."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return separator.join(islice(names, shown)) + more


def evaluations(count: int) -> str:
    """One network evaluation; 4 network evaluations."""
    return "one network evaluation" if count == 1 else f"{count} network evaluations"


def shortened(name: str | Path) -> str:
    """``name`` in one line, or its beginning where it is longer than a line should be."""
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(name))
    return text if len(text) <= SHOWN_NAME else f"{text[:SHOWN_NAME]}..."
