"""The options of `piflow eval` that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piflow_cli.commands.options import DATA, MODEL, OUTPUT, SAMPLING, setting, switch
from piflow_cli.evaluation.metric_kinds import ROWS, usual
from piflow_cli.presets.bounds import BATCH, IMAGES, TEACHER_STEPS

MEASURING = "Measuring"
# Those of other packages are known when they are named: looking for them takes a moment that --help has not got.
USUAL = usual(None, ROWS.values())

Students = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="STUDENT",
        help="Runs, adapters' folders or files, or Hub ids; several stand side by side.",
        show_default=False,
    ),
]
Compare = Annotated[list[str] | None, setting("--compare", "One more student; may come again.", MODEL, "STUDENT")]
Images = Annotated[Path | None, setting("--images", "A folder of pictures, in place of a student.", MODEL, "DIR")]
Reference = Annotated[
    str | None,
    setting(
        "--reference",
        "data, teacher, a folder, a file of statistics or clean-fid:NAME; default: data, or else teacher.",
        MEASURING,
        "WHAT",
    ),
]
Metrics = Annotated[
    str | None,
    setting(
        "--metrics",
        f"Of {', '.join(ROWS)}; default: all but {', '.join(name for name in ROWS if name not in USUAL)}.",
        MEASURING,
        "NAMES",
    ),
]
Extractor = Annotated[
    list[str] | None,
    setting(
        "--extractor",
        "What looks at pictures: pixels, digits-classifier, inception, inception-tf, dinov2:PATH; may come again.",
        MEASURING,
        "NAME",
    ),
]
InceptionWeights = Annotated[
    Path | None,
    setting("--inception-weights", "Where they are, if in none of the usual caches.", MEASURING, "FILE"),
]
TrustWeights = Annotated[
    bool, switch("--trust-weights", "Run those even where they are not the published file.", MEASURING)
]
Clip = Annotated[str | None, setting("--clip", "The CLIP of the CLIP score; default: ViT-L/14@336.", MEASURING, "PATH")]
Quick = Annotated[bool, switch("--quick", "1,000 images and the metrics that take the least.", MEASURING)]
Full = Annotated[bool, switch("--full", "The paper's protocol: 50,000 images, or 10,000 prompts.", MEASURING)]
NumImages = Annotated[
    int | None,
    setting("--num-images", "How many; default: as many as the training set, or 1,000.", SAMPLING, "N", 1, IMAGES),
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
        "Of the teacher's fine solution; default: 128, or 50 from prompts.",
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
    Path | None, setting("--cache", "Folder of what was generated; default: ~/.cache/piflow.", DATA, "DIR")
]
SaveImages = Annotated[bool, switch("--save-images", "Also write every picture.", OUTPUT)]
SaveStatistics = Annotated[
    Path | None,
    setting("--save-statistics", "Keep those of --images here, for --reference; .safetensors.", OUTPUT, "FILE"),
]
Output = Annotated[Path | None, setting("--output", "Folder of the report; default: evals/<name>.", OUTPUT, "DIR")]
