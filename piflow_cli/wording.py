"""Words that messages share."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice


def few(names: Collection[str], shown: int = 3, separator: str = ", ") -> str:
    """The first of ``names`` and the number of the others: "a, b, c and 2 more"."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return separator.join(islice(names, shown)) + more
