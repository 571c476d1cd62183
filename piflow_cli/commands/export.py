"""`piflow export`: a student in the formats of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piflow_cli.commands.options import (
    OUTPUT,
    Base,
    Device,
    Json,
    Quiet,
    Subfolder,
    Teacher,
    examples,
    setting,
    switch,
)
from piflow_cli.console import Console, format_pairs
from piflow_cli.exporting.formats import FORMATS
from piflow_cli.presets.bounds import WIDTH

FORMAT, HUB = "Format", "Hub"
NAMES = tuple(FORMATS)

EXAMPLES = examples(
    ("piflow export runs/a --format adapter --dtype bf16", "as it is published"),
    ("piflow export runs/a --format adapter --rank 64", "a quarter of the rank"),
    ("piflow export runs/a --format pipeline", "runs without piflow"),
    ("piflow export me/a --subfolder b --format merged", "from the Hub"),
    closing="What was written is read back and compared with the student; if it differs, nothing is left of it.",
)


def export(
    student: Annotated[
        str,
        typer.Argument(metavar="STUDENT", help="A run, an adapter's folder or file, or a Hub id.", show_default=False),
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME",
            help=f"{', '.join(NAMES[:-1])} or {NAMES[-1]}.",
            rich_help_panel=FORMAT,
            show_default=False,
        ),
    ],
    dtype: Annotated[str | None, setting("--dtype", "bf16, fp16 or fp32; default: as stored.", FORMAT, "NAME")] = None,
    rank: Annotated[
        int | None, setting("--rank", "Largest rank of the adapters; what is lost is printed.", FORMAT, "N", 1, WIDTH)
    ] = None,
    quantise: Annotated[
        str | None, setting("--quantise", "Precision of a merged base: fp8, int8 or nf4.", FORMAT, "NAME")
    ] = None,
    no_base: Annotated[bool, switch("--no-base", "Name the base, and do not copy it into a pipeline.", FORMAT)] = False,
    subfolder: Subfolder = None,
    teacher: Teacher = None,
    base: Base = None,
    device: Device = "auto",
    output: Annotated[
        Path | None, setting("--output", "Folder of the export; default: exports/<name>-<format>.", OUTPUT, "DIR")
    ] = None,
    overwrite: Annotated[bool, switch("--overwrite", "Let it take the place of an earlier export.", OUTPUT)] = False,
    prompt: Annotated[
        list[str] | None,
        setting("--prompt", "Of a sample on the card of a text-to-image student; may come again.", OUTPUT, "TEXT"),
    ] = None,
    accept_changed: Annotated[
        bool, switch("--accept-changed", "Take an adapter whose checksums differ, and write new ones.", FORMAT)
    ] = False,
    push_to_hub: Annotated[
        str | None, setting("--push-to-hub", "Repository that takes the folder.", HUB, "OWNER/NAME")
    ] = None,
    private: Annotated[bool, switch("--private", "Make that repository a private one.", HUB)] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a student where others can load it: ComfyUI, diffusers, the Hub.

    Every export has a model card, README.md.
    """
    console = Console(json=json, quiet=quiet)
    from piflow_cli.exporting.driver import export as run_export
    from piflow_cli.exporting.request import ExportRequest, usual_folder

    request = ExportRequest(
        student=student,
        format=format,
        output=usual_folder(student, subfolder, format) if output is None else output,
        dtype=dtype,
        rank=rank,
        base=base,
        with_base=not no_base,
        quantise=quantise,
        overwrite=overwrite,
        push_to_hub=push_to_hub,
        private=private,
        subfolder=subfolder,
        teacher=teacher,
        device=device,
        prompts=() if prompt is None else tuple(prompt),
        changed=accept_changed,
    )
    with console.listening():
        result = run_export(request, console)
    console.result(result, format_pairs(result))
