"""Running a wrong command line in this process, and the rule for what may come of it."""

from __future__ import annotations

import io
import json
import random
import signal
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass

from fuzz_lines import Line

MOST_LINES = 3
SECONDS = 120  # after which a line hangs


@dataclass(frozen=True)
class Outcome:
    """What a line left behind."""

    code: int
    out: str
    err: str


def run(arguments: tuple[str, ...]) -> Outcome:
    """A command line through the console script's own entry point."""
    from piflow_cli.app import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), _no_longer_than(SECONDS):
        code = main(list(arguments))
    return Outcome(code, out.getvalue(), err.getvalue())


def judge(line: Line, rng: random.Random) -> tuple[Outcome, list[str]]:
    """Run ``line``, as JSON or for people; returns what is wrong with the outcome."""
    as_json = line.said or rng.random() < 0.3
    # Behind the command, since an option that lacks its value must stay the last.
    outcome = run((line.arguments[0], "--json" if as_json else "--quiet", *line.arguments[1:]))
    return outcome, list(_of_json(line, outcome) if as_json else _of_text(outcome))


def _of_text(outcome: Outcome):
    yield from _of_any(outcome)
    lines = outcome.err.splitlines()
    # A file with many faults lists them.
    listed = bool(lines) and lines[0].endswith("faults:")
    if len(lines) > MOST_LINES and not listed:
        yield f"{len(lines)} lines"
    if not outcome.err.startswith("Error: "):
        yield "does not begin with Error:"
    if "→" not in outcome.err:
        yield "no hint"


def _of_json(line: Line, outcome: Outcome):
    try:
        records = [json.loads(text) for text in outcome.err.splitlines()]
    except ValueError:
        yield "stderr is not JSON"
        return
    if line.said and outcome.code == 0:
        if not any("warning" in record for record in records):
            yield "silent"
        return
    yield from _of_any(outcome)
    if not records or set(records[-1]) != {"error", "hint", "exit_code"} or records[-1]["exit_code"] != outcome.code:
        yield "no record of the error"
    elif not records[-1]["hint"]:
        yield "no hint"


def _of_any(outcome: Outcome):
    if outcome.code == 0:
        yield "silent: exit code 0"
    elif outcome.code not in (1, 2):
        yield f"exit code {outcome.code}"
    if "report it" in outcome.err:
        yield "report it"
    if "Traceback" in outcome.err:
        yield "a traceback"
    if outcome.code and outcome.out:
        yield "something on stdout"
    if max((len(text) for text in outcome.err.splitlines()), default=0) > 1000:
        yield "a line of more than 1000 characters"


@contextmanager
def _no_longer_than(seconds: int):
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def late(number, frame):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
