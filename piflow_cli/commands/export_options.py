"""The options of `piflow export` that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piflow_cli.commands.completions import complete_format, complete_student
from piflow_cli.commands.options import OUTPUT, setting, switch
from piflow_cli.exporting.formats import FORMATS
from piflow_cli.presets.bounds import WIDTH

FORMAT, HUB = "Format", "Hub"
NAMES = tuple(FORMATS)

Student = Annotated[
    str,
    typer.Argument(
        metavar="STUDENT",
        help="A run, an adapter's folder or file, or a Hub id.",
        autocompletion=complete_student,
        show_default=False,
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        help=f"Format of the export: {', '.join(NAMES[:-1])} or {NAMES[-1]}.",
        rich_help_panel=FORMAT,
        autocompletion=complete_format,
        show_default=False,
    ),
]
Dtype = Annotated[
    str | None, setting("--dtype", "Precision of the weights: bf16, fp16 or fp32; default: as stored.", FORMAT, "NAME")
]
Rank = Annotated[
    int | None, setting("--rank", "Largest rank of the adapters; the loss is printed.", FORMAT, "N", 1, WIDTH)
]
Quantise = Annotated[str | None, setting("--quantise", "Precision of a merged base: fp8, int8 or nf4.", FORMAT, "NAME")]
NoBase = Annotated[bool, switch("--no-base", "Name the base in a pipeline, and do not copy it.", FORMAT)]
Output = Annotated[
    Path | None, setting("--output", "Folder of the export; default: exports/<name>-<format>.", OUTPUT, "DIR")
]
CardPrompts = Annotated[
    list[str] | None,
    setting("--prompt", "Prompt of a sample on the card of a text-to-image student; may come again.", OUTPUT, "TEXT"),
]
AcceptChanged = Annotated[
    bool, switch("--accept-changed", "Accept an adapter whose checksums differ, and write new ones.", FORMAT)
]
PushToHub = Annotated[
    str | None, setting("--push-to-hub", "Also upload the folder to this repository.", HUB, "OWNER/NAME")
]
Private = Annotated[bool, switch("--private", "Make the repository private.", HUB)]
