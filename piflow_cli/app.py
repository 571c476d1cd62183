"""The Typer app, and the one place that turns an exception into a message and an exit code."""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command

from piflow_cli import __version__, streams
from piflow_cli.commands import cache as cached
from piflow_cli.commands import demo, distill, doctor, eval, export, inspect_policy, runs, sample, status
from piflow_cli.commands import help as helped
from piflow_cli.commands.options import Json, Quiet, switch, with_read_paths
from piflow_cli.console import Console, dumps, unprinted
from piflow_cli.errors import (
    DEBUG_VARIABLE,
    Interrupted,
    PiflowError,
    Preempted,
    Reported,
    RunError,
    UsageError,
    explain,
)
from piflow_cli.ranks import is_first
from piflow_cli.system.allocator import use_segments_that_grow

SECONDS_TO_SPEAK = 2
# Typer's own suggestions: what is near enough to be meant is in the hint.
SUGGESTED = re.compile(r" (\(Possible options: .*\)|Did you mean .*\?)$")
HELP = {"help_option_names": ["-h", "--help"]}
NO_COMMAND = UsageError("no command given", "piflow --help lists the commands")

app = typer.Typer(
    name="piflow",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings=HELP,
    epilog="[bold]Start here[/]\n  [cyan]piflow distill --teacher digits[/]",
)
app.command("distill", cls=helped.WithOpposites, epilog=distill.EXAMPLES)(distill.distill)
app.command("sample", epilog=sample.EXAMPLES)(sample.sample)
app.command("eval", epilog=eval.EXAMPLES)(eval.eval)
app.command("export", epilog=export.EXAMPLES)(export.export)
app.command("inspect-policy", epilog=inspect_policy.EXAMPLES)(inspect_policy.inspect_policy)
app.command("demo", epilog=demo.EXAMPLES)(demo.demo)
app.command("status", epilog=status.EXAMPLES)(status.status)
app.command("runs", epilog=runs.EXAMPLES)(runs.runs)
app.command("cache", epilog=cached.EXAMPLES)(cached.cache)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(helped.NAME, epilog=helped.EXAMPLES)(helped.help)


@app.callback(invoke_without_command=True)
def piflow(
    context: typer.Context,
    version: Annotated[bool, switch("--version", "Print the version; with --json, all of them.", "Options")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distil flow models into policies that sample in one to a few network evaluations."""
    if version:
        _print_version(Console(json=json))
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise NO_COMMAND
    # Given before the command, the two hold for it as if they were given after it.
    inherited = {name: True for name, given in (("json", json), ("quiet", quiet)) if given}
    context.default_map = {context.invoked_subcommand: inherited}


@cache
def program() -> TyperGroup:
    """The commands with their options, as they are read and run; Typer takes a hundredth of a second to make them."""
    whole = cast(TyperGroup, get_command(app))
    for command in whole.commands.values():
        # The first context that a command gets decides this, and to complete values it has no program around it.
        command.context_settings.update(HELP)
    return whole


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code; the console script."""
    args = sys.argv[1:] if argv is None else argv
    use_segments_that_grow()
    silent = _is_silent(args)
    streams.occupy()
    debugged = os.environ.get(DEBUG_VARIABLE) == "1"
    # Progress and warnings that nobody reads any more are no reason to stop anything.
    with streams.unbreakable("stderr"), nullcontext() if debugged else streams.calm():
        code = _flushed(_run(args, silent), args)
        if code == 0 and argv is None and "torch.distributed" in sys.modules:
            from piflow_cli.system.group import leave_group

            leave_group()
    if silent and argv is None:
        streams.hush()
    return code


def _flushed(code: int, args: list[str]) -> int:
    """``code``, or that of a failure where stdout does not take what was printed."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # Python would try again at its end, and turn the exit code into one of its own.
        streams.silence(sys.stdout)
        # Help that is piped into `head` has been read.
        if code == 0 and not isinstance(error, BrokenPipeError):
            return _report(unprinted(error), args)
    return code


def _run(args: list[str], silent: bool) -> int:
    try:
        if is_first() and not streams.takes_data():
            # Every command has a result: one that cannot be printed is not worth the hours that it may take.
            raise RunError("stdout is closed, and results go there", "where nobody is to read them: > /dev/null")
        if (name := _command_in(args)) is not None:
            args = _read(args, program().commands[name].params)
        with streams.only_ours(silent):
            code = program().main(args=args, prog_name="piflow", standalone_mode=False, obj=args)
    except SystemExit as ended:
        return _unread(ended, args)
    except (Exception, KeyboardInterrupt) as exc:
        return _report(exc, args)
    if code == Interrupted.exit_code:
        # Typer turns Ctrl-C into this code on its way and says nothing.
        return _report(KeyboardInterrupt(), args)
    return code if isinstance(code, int) else 0


def _read(args: list[str], options: Sequence[Any]) -> list[str]:
    """``args`` with their paths read; raises UsageError for what Typer would take for something else."""
    from piflow_cli.commands.misspelt import with_one_dash

    if (error := with_one_dash(args, options)) is not None:
        raise error
    return with_read_paths(options, args)


def _unread(ended: SystemExit, args: list[str]) -> int:
    """The exit code where Typer, or what draws the help, gives up, since the reader of stdout has gone."""
    if not isinstance(ended.__context__, BrokenPipeError):
        raise ended
    if not args:
        return _report(NO_COMMAND, args)
    return 0 if _asks_for_help(args) else _report(ended.__context__, args)


def _print_version(console: Console) -> None:
    if not console.json:
        console.result({}, f"piflow {__version__}")
        return
    from piflow_cli.system.versions import collect

    console.result(collect(), "")


def _command_in(args: list[str]) -> str | None:
    """The command that is named; None where none is."""
    known = {command.name for command in app.registered_commands}
    return next((arg for arg in args if arg in known), None)


def _options(args: list[str]) -> list[str]:
    """The options in the raw arguments, since a faulty command line never reaches a Console."""
    return args[: args.index("--")] if "--" in args else args


def _asks_for_help(args: list[str]) -> bool:
    return not {"--help", "-h"}.isdisjoint(_options(args)) or _command_in(args) == helped.NAME


def _is_silent(args: list[str]) -> bool:
    """Whether only our own output is wanted: of several processes the first alone lets libraries speak.

    Help is written by Typer, and whoever debugs wants to see everything.
    """
    options = set(_options(args))
    wanted = options & {"--json", "--quiet"} or not is_first()
    return bool(wanted) and not _asks_for_help(args) and os.environ.get(DEBUG_VARIABLE) != "1"


def _report(exc: BaseException, args: list[str]) -> int:
    """Print message and hint on stderr, and return the exit code."""
    if type(exc).__name__ == "NoArgsIsHelpError":
        exc = NO_COMMAND  # the help is on the screen already
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exception(exc)
    error = _usage_error(exc, args) or explain(exc) or _unknown(exc)
    if not is_first() and isinstance(error, (UsageError, Interrupted, Reported)):
        # All processes of a run meet these; what launched them ends the others once one is gone, so the first speaks
        # first.
        time.sleep(SECONDS_TO_SPEAK)
        return error.exit_code
    if isinstance(error, Reported):
        return error.exit_code
    if isinstance(error, Preempted):
        record = {"stopped": error.message, "hint": error.hint, "exit_code": error.exit_code}
        plain = f"{error.message[:1].upper()}{error.message[1:]}: {error.hint}"
        print(dumps(record) if "--json" in _options(args) else plain, file=sys.stderr)
    elif "--json" in _options(args):
        record = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
        print(dumps(record), file=sys.stderr)
    else:
        hint = "" if error.hint is None else f"\n  → {error.hint}"
        print(f"Error: {error.message}{hint}", file=sys.stderr)
    return error.exit_code


def _usage_error(exc: BaseException, args: list[str]) -> PiflowError | None:
    """Typer's own complaint about the command line; its classes are private, but they all can format themselves."""
    said = getattr(exc, "format_message", None)
    if said is None:
        return None
    from piflow_cli.commands.misread import misread
    from piflow_cli.commands.misspelt import misspelt

    if (error := misread(exc, _placeholders()) or misspelt(exc)) is not None:
        return error
    context = getattr(exc, "ctx", None)
    # A fault in how options are written comes without a context.
    named = _command_in(args)
    command = f"piflow {named or ''}".rstrip() if context is None else context.command_path
    # Checks that Typer hands to pydantic come back with this prefix, which says nothing.
    message = SUGGESTED.sub("", " ".join(said().split()).replace("Value error, ", ""))
    return UsageError(message, f"{command} --help lists what there is")


def _placeholders() -> dict[str, str]:
    """What stands for the value of each option in the help of the commands."""
    options = [option for command in program().commands.values() for option in command.params]
    return {name: option.metavar for option in options if option.metavar for name in option.opts}


def _unknown(exc: BaseException) -> PiflowError:
    text = " ".join(str(exc).split())
    message = f"{type(exc).__name__}: {text}" if text else type(exc).__name__
    return RunError(message, f"set {DEBUG_VARIABLE}=1 for the traceback, and report it with piflow --version --json")
