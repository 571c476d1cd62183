"""What a hint says is typed, after the fault that it answers: the command then succeeds, or gets beyond the fault."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hint_cases import CASES, NOT_TYPED, Case
from hint_damage import damaged
from hint_material import material
from hint_texts import to_type
from hint_typing import for_the_shell, retyped


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_teacher, tiny_vae) -> Iterator[dict[str, str]]:
    root = tmp_path_factory.mktemp("hints")
    whole = material(root, tiny_teacher)
    with ExitStack() as stack:
        files = whole | damaged(root / "damaged", whole, tiny_vae, stack)
        yield {name: str(path) for name, path in files.items()}


class Reached(Exception):
    """All that can be refused has been looked at, and the pictures would be made now."""


def reached(*given: object, **options: object) -> None:
    raise Reached


# Where the commands that take longest begin to compute.
COMPUTING = (
    "piflow_cli.sampling.sample.batches",
    "piflow_cli.evaluation.generate.Generation.run",
    "piflow_cli.inspection.inspect.examine",
    "piflow_cli.training.run.train_step",
)


def test_every_hint_with_something_to_type_has_a_case_or_a_reason():
    """A new one has neither, and fails here."""
    cased = {case.key for case in CASES}
    assert cased | NOT_TYPED.keys() == to_type()
    assert not cased & NOT_TYPED.keys()


def said(err: str, hint: re.Pattern[str]) -> tuple[str, str]:
    """Message and hint of a command: of a fault or a warning the hint is the last part of the message itself."""
    message, _, told = err.strip().partition("\n  → ")
    message, told = message.rpartition("Error: ")[2], " ".join(told.split())
    if hint.search(told):
        return message, told
    assert (found := hint.search(" ".join(message.split()))), err
    return found[0], found[0].partition(": ")[2] or found[0]


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

    for name, value in case.env.items():
        monkeypatch.setenv(name, value)
    line = shlex.split(placed(case.line))
    outcome = cli(*line)
    assert (outcome.code in (1, 2) and "Reached" not in outcome.err) != case.spoken, outcome
    message, hint = said(outcome.err, shown_by(case.hint))
    fill = {word: placed(path) for word, path in case.fill.items()}
    if (command := for_the_shell(hint, case.pick)) is not None:
        subprocess.run(command, check=True)
        again = cli(*line)
    else:
        again = cli(*retyped(line, hint, fill, [placed(name) for name in case.it], case.pick))
    assert not case.spoken or message not in again.err, again.err
    if case.then is None:
        assert again.code == 0 or "Reached" in again.err, again.err
    else:
        assert again.code != 0 and case.then in again.err and message not in again.err, again.err
