"""A check that crashes or hangs is a finding, and the others are made all the same."""

from __future__ import annotations

import os
import platform
import time
from functools import partial

from piflow_cli.doctor import examine
from piflow_cli.doctor.findings import Probe, works

FINE = Probe("fine", partial(works, "well", {"number": 1}), "is fine")


def found(*checks: Probe, seconds: float = 60.0) -> list[tuple[str, str]]:
    return [(row.finding.state, row.finding.says) for row in examine(checks, seconds)]


def test_a_check_that_ends_its_process_stops_no_other() -> None:
    last = Probe("last", partial(os._exit, 3), "ends")
    assert found(Probe("dies", os.abort, "dies"), FINE, last, FINE) == [
        ("broken", "ended its process by signal 6"),
        ("works", "well"),
        ("broken", "ended its process with code 3"),
        ("works", "well"),
    ]


def test_a_check_that_hangs_is_ended_and_what_follows_is_not_looked_at() -> None:
    begun = time.monotonic()
    hangs = Probe("hangs", partial(time.sleep, 600), "hangs")
    (first, hung, last) = found(FINE, hangs, FINE, seconds=4.0)
    assert time.monotonic() - begun < 300
    assert first == ("works", "well")
    assert hung[0] == "broken" and hung[1].startswith("has not ended after ")
    assert last == ("missing", "not looked at: 4 seconds are over")


def test_an_exception_is_a_finding_in_one_line() -> None:
    wrong = Probe("wrong", partial(int, "two\nlines"), "counts")
    missing = Probe("missing", partial(__import__, "nowhere_to_be_found"), "is away")
    assert found(wrong, missing, FINE) == [
        ("broken", "ValueError: invalid literal for int() with base 10: 'two\\nlines'"),
        ("broken", "the package nowhere_to_be_found is not installed"),
        ("works", "well"),
    ]


def test_what_a_check_writes_goes_nowhere(capfd) -> None:
    noisy = Probe("noisy", partial(os.write, 1, b"noise"), "writes")
    examine([noisy, Probe("system", platform.system, "names the system")])
    assert capfd.readouterr() == ("", "")


def test_each_check_is_announced() -> None:
    seen: list[str] = []
    examine([FINE, FINE], watch=lambda check: seen.append(check.name))
    assert seen == ["fine", "fine"]
