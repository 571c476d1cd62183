"""The options of `piflow inspect-policy` that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piflow_cli.commands.options import OUTPUT, SAMPLING, setting
from piflow_cli.presets.bounds import EVALUATIONS

INSPECTION = "Inspection"

Compare = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--compare",
        metavar="A B",
        help="Two students in the same figures, in place of STUDENT.",
        rich_help_panel=INSPECTION,
        show_default=False,
    ),
]
At = Annotated[
    int,
    setting(
        "--at", "Network evaluation of the close-up, from 1; default: the first.", INSPECTION, "STEP", 1, EVALUATIONS
    ),
]
Slice = Annotated[
    str | None,
    setting("--slice", "Show density and velocity at a position: column, row, channel (0).", INSPECTION, "X,Y[,AXIS]"),
]
Seeds = Annotated[
    str | None, setting("--seeds", "One image for each seed and prompt; default: the first 16.", SAMPLING, "RANGES")
]
Output = Annotated[Path | None, setting("--output", "Folder of the report; default: inspection/<name>.", OUTPUT, "DIR")]
