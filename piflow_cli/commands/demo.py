"""`piflow demo`: a window to try a student in."""

from __future__ import annotations

from typing import Annotated

import typer

from piflow_cli.commands.options import (
    OUTPUT,
    Base,
    BasePrecision,
    Device,
    Json,
    Quiet,
    Subfolder,
    Teacher,
    examples,
    read_options,
    setting,
)
from piflow_cli.commands.sample_options import Height, Vae, Width
from piflow_cli.console import Console
from piflow_cli.presets.bounds import PORT

EXAMPLES = examples(
    ("piflow demo runs/digits", "digits beside their teacher's"),
    ("piflow demo runs/flux-dev --port 7861", "at another address"),
    closing='It takes pip install "piflow\\[demo]". Ctrl-C closes it. No other host is asked for anything.',
)
Student = Annotated[
    str,
    typer.Argument(metavar="STUDENT", help="A run, an adapter's folder or file, or a Hub id.", show_default=False),
]
Port = Annotated[
    int | None, setting("--port", "Port of the window; default: the first free one from 7860.", OUTPUT, "N", 1, PORT)
]


def demo(
    context: typer.Context,
    student: Student,
    subfolder: Subfolder = None,
    teacher: Teacher = None,
    base: Base = None,
    vae: Vae = None,
    base_precision: BasePrecision = None,
    device: Device = "auto",
    height: Height = None,
    width: Width = None,
    port: Port = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try a student in the browser: its picture beside its teacher's, and what its policy decided.

    The page is on this machine alone.
    """
    told = read_options(
        context, "port", "subfolder", "teacher", "base", "vae", "base_precision", "device", "height", "width"
    )
    console = Console(json=json, quiet=quiet)
    from piflow_cli.demo.serve import DemoRequest, serve

    def opened(address: str) -> None:
        console.result({"address": address}, address)
        console.say("Open it in a browser; Ctrl-C closes it.")

    with console.listening():
        serve(DemoRequest(student, **told), console, opened)
