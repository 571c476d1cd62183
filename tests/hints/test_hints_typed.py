"""What a hint says is typed, after the fault that it answers: the command then succeeds, or gets beyond the fault."""

from __future__ import annotations

import re
import shlex

import pytest
from hint_cases import CASES, NOT_TYPED, Case
from hint_inputs import inputs
from hint_texts import to_type
from hint_typing import retyped


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_teacher) -> dict[str, str]:
    return inputs(tmp_path_factory.mktemp("hints"), tiny_teacher)


class Reached(Exception):
    """All that can be refused has been looked at, and the pictures would be made now."""


def reached(*given: object, **options: object) -> None:
    raise Reached


# Where the commands that take longest begin to compute.
COMPUTING = (
    "piflow_cli.sampling.sample.batches",
    "piflow_cli.evaluation.generate.Generation.run",
    "piflow_cli.inspection.inspect.examine",
)


def test_every_hint_with_something_to_type_has_a_case_or_a_reason():
    """A new one has neither, and fails here."""
    cased = {case.key for case in CASES}
    assert cased | NOT_TYPED.keys() == to_type()
    assert not cased & NOT_TYPED.keys()


def said(err: str) -> tuple[str, str]:
    """Message and hint of a command that failed."""
    message, _, hint = err.strip().partition("\n  → ")
    return message.rpartition("Error: ")[2], " ".join(hint.split())


def shown_by(template: str) -> re.Pattern[str]:
    """What a hint of the source looks like, whatever is filled in."""
    return re.compile(".*".join(re.escape(part) for part in template.split("{}")))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.key}, {case.pick}")
def test_what_a_hint_says_is_typed(cli, files, tmp_path, monkeypatch, case: Case):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for place in COMPUTING:
        monkeypatch.setattr(place, reached)
    names = {"tmp": str(tmp_path), **files}

    def placed(text: str) -> str:
        return re.sub(r"\{([^{}]+)\}", lambda found: names[found[1]], text)

    line = shlex.split(placed(case.line))
    outcome = cli(*line)
    assert outcome.code in (1, 2) and "Reached" not in outcome.err, outcome
    message, hint = said(outcome.err)
    assert shown_by(case.hint).search(hint), outcome.err
    fill = {word: placed(path) for word, path in case.fill.items()}
    again = cli(*retyped(line, hint, fill, [placed(name) for name in case.it], case.pick))
    if case.then is None:
        assert again.code == 0 or "Reached" in again.err, again.err
    else:
        assert again.code != 0 and case.then in again.err and message not in again.err, again.err
