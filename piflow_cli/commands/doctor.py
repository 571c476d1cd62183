"""`piflow doctor`: what works on this machine."""

from __future__ import annotations

from piflow_cli.commands.options import Json, Quiet, examples
from piflow_cli.console import Console
from piflow_cli.errors import RunError

EXAMPLES = examples(
    ("piflow doctor", "what works, in lines"),
    ("piflow doctor --json", "the same for a program"),
    ("piflow doctor --quiet", "no news meanwhile"),
    closing="Exit code 1 means that something which is there does not work, or that no step of training was made.",
)


def doctor(json: Json = False, quiet: Quiet = False) -> None:
    """Say what works on this machine, within a minute: torch, GPU, kernels, folders, and a step of training.

    Nothing is downloaded, and nothing is left behind.
    """
    console = Console(json=json, quiet=quiet)
    from piflow_cli.doctor import CHECKS, examine
    from piflow_cli.doctor.report import fault_of, record, text

    console.say("This takes up to a minute.")
    rows = examine(CHECKS)
    console.result(record(rows), text(rows))
    if (fault := fault_of(rows)) is not None:
        raise RunError(fault, "the lines above say what is wrong and, where it is known, what to type")
