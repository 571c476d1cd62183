"""Budgets as they are typed: what they mean, and what is refused in which words."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from piflow_cli.errors import UsageError
from piflow_cli.presets.budgets import LEAST, MOST, UNITS, in_units, read_budget
from piflow_cli.presets.resolve import resolve

counts = st.integers(0, 500)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", 45),
        ("30m", 1800),
        ("12h", 43200),
        ("2d", 172800),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1d12h", 129600),
        ("90m", 5400),
    ],
)
def test_a_time_is_that_of_the_run_on_any_number_of_processes(text: str, seconds: int) -> None:
    assert read_budget(text).seconds(1) == read_budget(text).seconds(8) == seconds


@pytest.mark.parametrize(("text", "most"), [("367d", "366d"), ("9999999gpu-h", "1124352gpu-h")])
def test_the_most_is_named_in_the_form_that_was_typed(text: str, most: str) -> None:
    with pytest.raises(ValueError, match=f"at most {most}, not {text}"):
        read_budget(text)
    assert read_budget(most).seconds(1) > 0


def test_gpu_hours_are_shared_by_all_processes() -> None:
    assert [read_budget("40gpu-h").seconds(count) for count in (1, 4, 8)] == [144000, 36000, 18000]
    assert read_budget("0.5gpu-h").seconds(2) == 900


@given(st.tuples(counts, counts, counts, counts), st.sets(st.sampled_from(list(UNITS)), min_size=1))
def test_units_add_up_in_their_order(numbers: tuple[int, ...], present: set[str]) -> None:
    parts = [(number, unit) for number, unit in zip(numbers, UNITS) if unit in present]
    seconds = sum(number * UNITS[unit] for number, unit in parts)
    text = "".join(f"{number}{unit}" for number, unit in parts)
    if LEAST <= seconds <= MOST:
        assert read_budget(text).seconds(1) == seconds
    else:
        with pytest.raises(ValueError, match=f"must be at least {LEAST}s"):
            read_budget(text)


@given(st.floats(LEAST, MOST - 86400))
def test_what_is_named_is_enough_and_at_most_one_smaller_unit_more(seconds: float) -> None:
    text = in_units(seconds)
    named = read_budget(text).seconds(1)
    assert seconds <= named < seconds + max(1, seconds / 2)
    assert re.fullmatch("([0-9]+[dhms]){1,2}", text)


@given(st.floats(60, 1e6), st.integers(1, 64))
def test_gpu_hours_that_are_named_are_enough(seconds: float, processes: int) -> None:
    shared = read_budget("40gpu-h")
    named = read_budget(shared.text(seconds, processes))
    assert named.shared and seconds * (1 - 1e-6) <= named.seconds(processes) <= seconds + 37


@given(st.text(alphabet="0123456789dhmsgpu-. +eE", max_size=12))
def test_any_other_text_is_refused_with_the_right_forms(text: str) -> None:
    assume(
        not re.fullmatch(r"[0-9]+(\.[0-9]+)?(d|h|m|s|gpu-h)|([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?", text) or not text
    )
    with pytest.raises(ValueError, match="must be a time such as 45s, 30m, 1h30m, 12h, 2d or 40gpu-h, not"):
        read_budget(text)


@pytest.mark.parametrize(
    "value", ["12 h", "-5m", "1e3s", "30m1h", "1h30", "60", "inf", "nans", "4٠s", "", "400d", "2s"]
)
def test_what_is_no_budget_is_a_fault_of_the_settings(value: str) -> None:
    with pytest.raises(
        UsageError, match=r"^--budget .*: must be .* such as 45s|^--budget .*: must be at least 5s"
    ) as caught:
        resolve("digits", None, [], {"optimisation.budget": value})
    assert caught.value.hint == "type --budget 12h"


def test_a_bare_number_is_none(cli) -> None:
    outcome = cli("distill", "--teacher", "digits", "--set", "optimisation.budget=60", "--print-config")
    assert outcome.code == 2 and "must be a time such as 45s" in outcome.err and "not 60" in outcome.err


@pytest.mark.parametrize(
    "given", [["--iterations", "5"], ["--set", "optimisation.iterations=5"], ["--config", "more.yaml"]]
)
def test_a_budget_excludes_iterations_and_both_are_named(cli, tmp_path, monkeypatch, given: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.yaml").write_text("optimisation: {iterations: 5}\n")
    outcome = cli("distill", "--teacher", "digits", "--budget", "60s", *given, "--print-config")
    assert outcome.code == 2 and "excludes --budget 60s, which sets it: give one of them" in outcome.err
    assert given[1].partition("=")[0] in outcome.err


@pytest.mark.parametrize(
    "given", [["--iterations", "5"], ["--iterations", "5", "--set", "optimisation.schedule=constant"]]
)
def test_a_budget_in_a_file_is_taken_back_by_what_the_hint_says(cli, tmp_path, given: list[str]) -> None:
    (tmp_path / "timed.yaml").write_text("extends: digits\nname: timed\noptimisation: {budget: 60s}\n")
    command = ["distill", "--teacher", str(tmp_path / "timed.yaml"), *given, "--print-config"]
    outcome = cli(*command)
    assert outcome.code == 2 and outcome.err.splitlines()[-1] == "  → type --set optimisation.budget=null"
    assert "iterations: 5\n" in cli(*command, "--set", "optimisation.budget=null").out
    # One that is typed as well can be left out, and so can what it excludes.
    typed = cli(*command, "--budget", "90s")
    assert typed.code == 2 and "  → leave --" in typed.err


def test_what_is_printed_of_a_budget_is_read_back(cli, tmp_path) -> None:
    printed = cli("distill", "--teacher", "digits", "--budget", "1h30m", "--print-config")
    (tmp_path / "all.yaml").write_text(printed.out)
    again = cli("distill", "--teacher", "digits", "--config", str(tmp_path / "all.yaml"), "--print-config")
    assert (printed.code, again.out) == (0, printed.out) and "budget: 1h30m" in printed.out
