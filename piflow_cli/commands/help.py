"""`piflow help`: the help of the program, or of one command."""

from __future__ import annotations

from typing import Annotated

import typer

from piflow_cli.commands.options import examples

NAME = "help"
EXAMPLES = examples(
    ("piflow help", "all commands"),
    ("piflow help distill", "one of them, as piflow distill --help shows it"),
    closing="The pages in docs/ say more.",
)


def complete_command(context: typer.Context, incomplete: str) -> list[str]:
    """Commands that begin with what was typed."""
    commands = getattr(context.find_root().command, "commands", {})
    return [name for name in commands if name.startswith(incomplete)]


Command = Annotated[
    str | None,
    typer.Argument(
        metavar="COMMAND", help="A command; without one, all.", autocompletion=complete_command, show_default=False
    ),
]


def help(context: typer.Context, command: Command = None) -> None:
    """Show the help of piflow, or of one command."""
    root = context.find_root().command
    # What is unknown is answered as if it had been typed without `help`.
    named = [] if command is None else [command]
    root.main(args=[*named, "--help"], prog_name="piflow", standalone_mode=False, obj=[*named, "--help"])
