"""`piflow status`: where a run stands."""

from __future__ import annotations

from typing import Annotated

import typer

from piflow_cli.commands.completions import complete_student
from piflow_cli.commands.options import Json, Quiet, examples
from piflow_cli.console import Console, format_pairs
from piflow_cli.errors import RunError

EXAMPLES = examples(
    ("piflow status runs/digits", "finished, running, stopped or broken"),
    ("piflow status runs/digits --json", "the same for a program"),
    closing="It reads the folder alone, from any machine that sees it. Exit code 1 means that the run is broken.",
)
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="The folder of a run.", autocompletion=complete_student, show_default=False)
]


def status(run: Run, json: Json = False, quiet: Quiet = False) -> None:
    """Say where a run stands: its state, iteration, loss, rate, time left and last files."""
    console = Console(json=json, quiet=quiet)
    from piflow_cli.presets.places import expanded
    from piflow_cli.students.run_status import status_of

    found = status_of(expanded(run))
    console.result(found.record(), format_pairs(found.pairs()))
    if found.why is not None:
        raise RunError(
            f"{run} is broken: {found.why}", "the line `next` says how to go on; without one, copy the folder again"
        )
