"""`piflow help`: the help of the program, or of one command."""

from __future__ import annotations

from copy import copy
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from piflow_cli.commands.options import examples

NAME = "help"
EXAMPLES = examples(
    ("piflow help", "all commands"),
    ("piflow help distill", "one of them, as piflow distill --help shows it"),
    closing="The pages in docs/ say more.",
)


class WithOpposites(TyperCommand):
    """A command whose help says the opposite of a switch in words: a column of opposites has no room at 80 columns."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        told = copy(self)
        told.params = [_in_words(option) for option in self.params]
        TyperCommand.format_help(told, ctx, formatter)


def _in_words(option: Any) -> Any:
    if not option.secondary_opts:
        return option
    told = copy(option)
    told.help, told.secondary_opts = f"{option.help} Not so: {', '.join(option.secondary_opts)}.", []
    return told


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
