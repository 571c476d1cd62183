"""Which tests are slow, and which say at length what another one says.

    pytest --durations=0 --durations-min=0.005 > timed.txt
    python tests/tiers.py timed.txt

Functions are taken, those that take longest first, until what is left takes SECONDS_LEFT of one core: two cores then
need less than a minute, with the time that they need to start. The list is tests/slow.txt; conftest.py marks what is
in it, and `pytest -m "not slow"` leaves that out.

Thorough is what `.ci/run` leaves out too, since another test makes the same statement of one case, or in small: the
lines of tests/thorough.txt, and of the slow ones those of families of text-to-image teachers that are not SHOWN.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIST = HERE / "slow.txt"
# Packed tokens and an embedded scale; a mask and two halves; a U-Net that predicts noise.
SHOWN = ("flux", "qwen-image", "sd15")
SECONDS_LEFT = 60
LINE = re.compile(r"([\d.]+)s (?:call|setup|teardown) +(?:tests/)?(\S+::\w+)")


def listed() -> frozenset[str]:
    """Functions that are slow, as file::function below tests/."""
    return frozenset(LIST.read_text().split())


def thorough() -> frozenset[str]:
    """Tests that `.ci/run` leaves out, as file::function or file::function[case] below tests/."""
    return frozenset((HERE / "thorough.txt").read_text().splitlines())


def marked(item: pytest.Item, slow: frozenset[str], at_length: frozenset[str]) -> None:
    """Mark a test by the tier that it is in."""
    file = item.path.relative_to(HERE).as_posix()
    function, case = (f"{file}::{name}" for name in (item.originalname, item.name))
    is_slow = function in slow or item.get_closest_marker("long") is not None
    if is_slow:
        item.add_marker(pytest.mark.slow)
    if {function, case} & at_length or (is_slow and not _families(item) <= {*SHOWN}):
        item.add_marker(pytest.mark.thorough)


def _families(item: pytest.Item) -> set[str]:
    """The families of the zoo that a test is about; none where it is about no single one."""
    zoo, call = sys.modules.get("zoo"), getattr(item, "callspec", None)
    if zoo is None or call is None:
        return set()
    named = (getattr(value, "family", value) for value in call.params.values())
    return {name for name in named if isinstance(name, str) and name in {**zoo.ZOO, **zoo.EDITS}}


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
