"""What a hint says is typed, after the fault that it answers: the command then succeeds, or gets beyond the fault."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from hint_cases import CASES, Case
from hint_computed import COMPUTING, reached
from hint_damage import damaged
from hint_doctor import IN_A_SHELL, ask_only, said_by_a_check
from hint_faults import FAULTS
from hint_inputs import inputs
from hint_programs import do, outside
from hint_refusals import KEYS
from hint_settings import edited
from hint_texts import OPTION, to_type
from hint_typing import commands, retyped
from hub_server import asked_at, served

# Nobody listens there.
NOWHERE = "http://127.0.0.1:9"
# Packages that the tests do without: what a line imports of each. That a hint is followed does not depend on the rest.
EMPTY = {"wandb": {"__init__": ""}, "bitsandbytes": {"__init__": "", "optim": "AdamW8bit = None\n"}}


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_teacher, tiny_vae) -> Iterator[dict[str, str]]:
    root = tmp_path_factory.mktemp("hints")
    whole = inputs(root, tiny_teacher)
    with ExitStack() as stack:
        files = whole | damaged(root / "damaged", whole, tiny_vae, stack)
        yield {name: str(path) for name, path in files.items()}


@pytest.fixture(autouse=True)
def no_accelerator() -> Iterator[None]:
    """What a run has set of the process for itself is of that run alone."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_every_hint_with_something_to_type_has_a_case():
    """A new one has none, and fails here."""
    assert {case.key for case in CASES} | KEYS | IN_A_SHELL == to_type()


def said(err: str, hint: re.Pattern[str]) -> tuple[str, str]:
    """Message and hint of a command: of a fault or a warning the hint is the last part of the message itself."""
    message, arrow, told = err.strip().rpartition("\n  → ")
    if hint.search(told := " ".join(told.split())) and arrow:
        return message.rpartition("Error: ")[2], told
    spoken = message if arrow else err
    found = hint.search(" ".join(re.sub(r"\b(Error|Warning): ", "", spoken).split()))
    assert found is not None, err
    wrong, _, told = found[0].partition(": ")
    return found[0], told if told and OPTION.search(wrong) else found[0]


def shown_by(template: str) -> re.Pattern[str]:
    """What a hint of the source looks like, whatever is filled in."""
    return re.compile(".*".join(re.escape(part) for part in template.split("{}")))


def with_bitsandbytes(name: str, package: str | None = None, find=importlib.util.find_spec) -> object:
    return find("math" if name == "bitsandbytes" else name, package)


@contextmanager
def empty(folder: Path, name: str) -> Iterator[None]:
    """A package of that name, installed in ``folder``, with next to nothing in it."""
    about = folder / f"{name}-1.0.dist-info"
    for place in (folder / name, about):
        place.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for module, content in EMPTY[name].items():
        (folder / name / f"{module}.py").write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
            patch.delitem(sys.modules, loaded)
        try:
            yield
        finally:
            for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
                del sys.modules[loaded]


def cases() -> Iterator[object]:
    """All cases; what is typed beyond the first of a hint is thorough."""
    met = set()
    for case in CASES:
        marks = [pytest.mark.thorough] if case.key in met else []
        met.add(case.key)
        yield pytest.param(case, marks=marks, id=f"{case.key}, {case.pick}")


@pytest.mark.parametrize("case", [*cases()])
def test_what_a_hint_says_is_typed(cli, files, much_memory, tmp_path, monkeypatch, case: Case):
    if case.needs is not None and case.needs not in EMPTY:
        pytest.importorskip(case.needs)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for place in () if case.computes else COMPUTING:
        monkeypatch.setattr(place, reached)
    if case.checks is not None:
        ask_only(monkeypatch, case.checks)
    # Where it is not installed, the lack of it is all that is said.
    monkeypatch.setattr(importlib.util, "find_spec", with_bitsandbytes)
    names = {"tmp": str(tmp_path), **files}

    def placed(text: str) -> str:
        return re.sub(r"\{([^{}]+)\}", lambda found: names[found[1]], text)

    for name, value in case.env.items():
        monkeypatch.setenv(name, placed(value))
    line = shlex.split(placed(case.line))
    mended = True
    with ExitStack() as around, ExitStack() as fault:
        asked_at(monkeypatch, NOWHERE, tmp_path)
        if case.needs in EMPTY:
            around.enter_context(empty(tmp_path / "packages", case.needs))
        if case.hub is not None:
            folders = {"owner/name": Path(files["teacherbase"]), "owner/prompts": Path(files["dataset"])}
            fault.callback(around.enter_context(served(folders, case.hub, tmp_path)).let_in)
        for name, told in case.faults.items():
            fault.enter_context(FAULTS[name](placed(told)))
        outcome = cli(*line)
        assert (outcome.code != 0 and "Reached" not in outcome.err) != case.spoken, outcome
        shown = shown_by(case.hint)
        message, hint = said(outcome.err, shown) if case.checks is None else said_by_a_check(outcome.out, shown)
        it = [placed(name) for name in case.it]
        part = commands(hint)[case.pick]
        typed = line
        if (words := outside(part)) is not None:
            if mended := do(words, case.package, it):
                fault.close()
        elif not edited(part):
            typed = retyped(line, hint, {word: placed(path) for word, path in case.fill.items()}, it, case.pick)
        again = cli(*typed)
    assert not case.spoken or message not in again.out + again.err, again
    if case.then is None:
        assert again.code == 0 or "Reached" in again.err, again.err
    else:
        assert case.then in again.err and not (mended and message in again.err), again.err
