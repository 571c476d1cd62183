"""A short round of wrong command lines; `python tests/fuzz/command_lines.py` has long ones."""

from __future__ import annotations

import random

import pytest
from fuzz_inputs import FuzzInputs, build
from fuzz_judge import judge
from fuzz_lines import COMMANDS, WRONG, Line, lines, options_of, valid, wrong_values

SEED, COUNT = 7, 60


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> FuzzInputs:
    return build(tmp_path_factory.mktemp("fuzz"))


def test_wrong_command_lines_end_in_one_message_and_nothing_is_silent(inputs, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng, broken = random.Random(SEED), []
    for line in lines(SEED, COUNT, inputs):
        outcome, faults = judge(line, rng)
        if faults:
            broken.append((faults, line.wrong, line.arguments, outcome.err[:500]))
    assert not broken


def test_a_seed_stands_for_its_lines(inputs) -> None:
    first, again = (list(lines(3, 20, inputs)) for _ in range(2))
    assert first == again
    assert len({line.wrong for line in first}) > 10


def test_the_rule_finds_what_breaks_it(inputs) -> None:
    """A line that is right is a fault here: it is passed over in silence."""
    right = Line(("distill", "--list-teachers"), "nothing")
    assert any("silent" in fault for fault in judge(right, random.Random(0))[1])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_wrong_values(command, inputs) -> None:
    for option in options_of(command):
        assert option.is_flag or wrong_values(option)
        # What is written freely is not told from what is right by its type.
        if option.metavar in ("NAME", "PATH", "SOURCE", "WHAT", "NAMES", "TEXT"):
            assert option.opts[0] in WRONG, option.opts[0]
    assert valid(command, inputs, random.Random(0))[0] == command
