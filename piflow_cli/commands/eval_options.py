"""The options of `piflow eval` that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piflow_cli.commands.completions import (
    complete_extractor,
    complete_limit,
    complete_metrics,
    complete_reference,
    complete_student,
)
from piflow_cli.commands.options import DATA, MODEL, OUTPUT, SAMPLING, setting, switch
from piflow_cli.evaluation.extractor_kinds import ROWS as EXTRACTORS
from piflow_cli.evaluation.metric_kinds import ROWS, usual
from piflow_cli.presets.bounds import BATCH, IMAGES, TEACHER_STEPS

MEASURING = "Measuring"
# Those of other packages are known when they are named: looking for them takes a moment that --help has not got.
USUAL = usual(None, ROWS.values(), videos=True)

Students = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="STUDENT",
        help="Runs, adapters' folders or files, or Hub ids; several stand side by side.",
        autocompletion=complete_student,
        show_default=False,
    ),
]
Compare = Annotated[
    list[str] | None,
    setting("--compare", "One more student; may come again.", MODEL, "STUDENT", complete=complete_student),
]
Images = Annotated[Path | None, setting("--images", "A folder of pictures, in place of a student.", MODEL, "DIR")]
Reference = Annotated[
    str | None,
    setting(
        "--reference",
        "What to compare with: data, teacher, a folder, statistics or clean-fid:NAME; default: data, or else teacher.",
        MEASURING,
        "WHAT",
        complete=complete_reference,
    ),
]
Metrics = Annotated[
    str | None,
    setting(
        "--metrics",
        f"Any of {', '.join(ROWS)}; default: all but {', '.join(name for name in ROWS if name not in USUAL)}.",
        MEASURING,
        "NAMES",
        complete=complete_metrics,
    ),
]
FailAbove = Annotated[
    list[str] | None,
    setting(
        "--fail-above",
        "Exit with 1 if a number is above, like fid=0.3; may come again.",
        MEASURING,
        "NAME=N",
        complete=complete_limit,
    ),
]
FailBelow = Annotated[
    list[str] | None,
    setting(
        "--fail-below",
        "Exit with 1 if a number is below, like psnr=20; may come again.",
        MEASURING,
        "NAME=N",
        complete=complete_limit,
    ),
]
Extractor = Annotated[
    list[str] | None,
    setting(
        "--extractor",
        f"Feature extractor: {', '.join(row.forms[0] for row in EXTRACTORS.values())}; may come again.",
        MEASURING,
        "NAME",
        complete=complete_extractor,
    ),
]
InceptionWeights = Annotated[
    Path | None,
    setting("--inception-weights", "Inception's weights, if they are in none of the usual caches.", MEASURING, "FILE"),
]
TrustWeights = Annotated[
    bool, switch("--trust-weights", "Run --inception-weights even if they are not the published file.", MEASURING)
]
Clip = Annotated[str | None, setting("--clip", "CLIP for the CLIP score; default: ViT-L/14@336.", MEASURING, "PATH")]
Quick = Annotated[
    bool,
    switch("--quick", "Measure 1,000 images (of --images up to 1,000) by the cheapest metrics.", MEASURING),
]
Full = Annotated[
    bool, switch("--full", "Follow the paper's protocol: 50,000 images of students, or 10,000 prompts.", MEASURING)
]
NumImages = Annotated[
    int | None,
    setting(
        "--num-images", "Number of images; default: as many as the training set, or 1,000.", SAMPLING, "N", 1, IMAGES
    ),
]
Labels = Annotated[
    str | None, setting("--labels", "Classes, like 0-9 or 3,5; default: as in the data.", SAMPLING, "RANGES")
]
Steps = Annotated[
    str | None,
    setting("--steps", "Network evaluations of students, like 1,2,4; default: as trained.", SAMPLING, "RANGES"),
]
TeacherSteps = Annotated[
    str | None,
    setting("--teacher-steps", "Also measure the teacher at these Euler steps, like 1,4,32.", SAMPLING, "RANGES"),
]
FineSteps = Annotated[
    int | None,
    setting(
        "--fine-steps",
        "Euler steps of the teacher's fine solution; default: 128, or 50 from prompts.",
        SAMPLING,
        "N",
        1,
        TEACHER_STEPS,
    ),
]
BatchSize = Annotated[
    int | None,
    setting("--batch-size", "Images made at once; default: 128, or 1 from prompts.", SAMPLING, "N", 1, BATCH),
]
Cache = Annotated[
    Path | None, setting("--cache", "Folder that keeps what was generated; default: ~/.cache/piflow.", DATA, "DIR")
]
SaveImages = Annotated[bool, switch("--save-images", "Also write every image.", OUTPUT)]
SaveStatistics = Annotated[
    Path | None,
    setting(
        "--save-statistics", "Write the statistics of --images to a .safetensors file, for --reference.", OUTPUT, "FILE"
    ),
]
Output = Annotated[Path | None, setting("--output", "Folder of the report; default: evals/<name>.", OUTPUT, "DIR")]
