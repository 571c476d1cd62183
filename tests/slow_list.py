"""Which tests are slow.

    pytest --durations=0 --durations-min=0.005 > timed.txt
    python tests/slow_list.py timed.txt

Functions are taken, those that take longest first, until what is left takes SECONDS_LEFT of one core: two cores then
need less than a minute, with the time that they need to start. The list is tests/slow.txt; conftest.py marks what is
in it, and `pytest -m "not slow"` leaves that out.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

LIST = Path(__file__).parent / "slow.txt"
SECONDS_LEFT = 60
LINE = re.compile(r"([\d.]+)s (?:call|setup|teardown) +(?:tests/)?(\S+::\w+)")


def listed() -> frozenset[str]:
    """Functions that are slow, as file::function below tests/."""
    return frozenset(LIST.read_text().split())


def main(timed: Path) -> None:
    """Write the list anew from what pytest says of durations."""
    taken: Counter[str] = Counter()
    for line in timed.read_text().splitlines():
        if found := LINE.match(line):
            taken[found[2]] += float(found[1])
    left, slow = sum(taken.values()), []
    for name, seconds in taken.most_common():
        if left <= SECONDS_LEFT:
            break
        left -= seconds
        slow.append(name)
    LIST.write_text("\n".join(sorted(slow)) + "\n")
    print(f"{len(slow)} of {len(taken)} functions are slow; the others take {left:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
