"""The options of `piflow sample`; commands that make the same pictures have some of them too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from piflow_cli.commands.completions import complete_student
from piflow_cli.commands.options import MEMORY, MODEL, OUTPUT, SAMPLING, setting, switch
from piflow_cli.presets.bounds import BATCH, EVALUATIONS, FRAMES, IMAGES, SIDE, SUBSTEPS

Student = Annotated[
    str | None,
    typer.Argument(
        metavar="STUDENT",
        help="A run, an adapter's folder or file, or a Hub id.",
        autocompletion=complete_student,
        show_default=False,
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Argument(metavar="PROMPT", help="A prompt, for text-to-image; may come again.", show_default=False),
]

Vae = Annotated[
    str | None,
    setting("--vae", "The VAE that decodes latents: a folder or Hub id; default: as trained.", MODEL, "PATH"),
]
Loras = Annotated[
    list[str] | None, setting("--lora", "A further LoRA with its scale; may come again.", MODEL, "PATH[:SCALE]")
]
Compile = Annotated[bool, switch("--compile", "Compile the blocks that the network repeats.", MODEL)]
Offload = Annotated[
    Literal["none", "model", "sequential", "group"],
    setting(
        "--offload", "How weights leave the GPU while idle: none (default), model, sequential, group.", MEMORY, "HOW"
    ),
]

PromptsFrom = Annotated[
    str | None,
    setting(
        "--prompts",
        "A file of prompts, optionally with columns seed, width, height; or a Hub dataset.",
        SAMPLING,
        "SOURCE",
    ),
]
References = Annotated[
    list[str] | None,
    setting(
        "--reference",
        "A picture to edit, for models that edit one; may come again, once for each prompt.",
        SAMPLING,
        "PICTURE",
    ),
]
Height = Annotated[
    int | None,
    setting("--height", "Height in pixels; default: that of training, if known, or 1024.", SAMPLING, "N", 1, SIDE),
]
Width = Annotated[
    int | None,
    setting("--width", "Width in pixels; default: that of training, if known, or 1024.", SAMPLING, "N", 1, SIDE),
]
Frames = Annotated[int | None, setting("--frames", "Frames of a video; default: as trained.", SAMPLING, "N", 1, FRAMES)]
Labels = Annotated[
    str | None, setting("--labels", "Classes, like 0-9 or 3,5; default: all, by seed.", SAMPLING, "RANGES")
]
Seeds = Annotated[
    str | None, setting("--seeds", "One image for each seed and prompt, like 0-63,100.", SAMPLING, "RANGES")
]
NumImages = Annotated[
    int | None, setting("--num-images", "Seeds 0 to N-1; default: 64, or 1 for each prompt.", SAMPLING, "N", 1, IMAGES)
]
Steps = Annotated[
    int | None,
    setting(
        "--steps",
        "Network evaluations per image; default: as trained; for a teacher 128, or 50 from prompts.",
        SAMPLING,
        "N",
        1,
        EVALUATIONS,
    ),
]
Shift = Annotated[
    float | None, setting("--shift", "Shift of the time grid towards noise; default: as trained.", SAMPLING, "M")
]
Substeps = Annotated[
    int | None,
    setting("--substeps", "Policy substeps per unit of raw time; default: as trained.", SAMPLING, "N", 1, SUBSTEPS),
]
Temperature = Annotated[
    str | None,
    setting(
        "--temperature", "Temperature of the mixture: auto, or at most 1; default: as trained.", SAMPLING, "auto|T"
    ),
]
Stochastic = Annotated[str, setting("--stochastic", "Noise put back between steps: 0 is none, inf all.", SAMPLING, "H")]
GuidanceScale = Annotated[
    str | None,
    setting("--guidance", "Guidance scale of a teacher; a student has its own distilled in.", SAMPLING, "SCALE"),
]
BatchSize = Annotated[
    int | None, setting("--batch-size", "Images made at once; default: 64, or 1 from prompts.", SAMPLING, "N", 1, BATCH)
]

Output = Annotated[Path | None, setting("--output", "Folder of the images; default: samples/<name>.", OUTPUT, "DIR")]
Grid = Annotated[bool, switch("--grid/--no-grid", "Also write one picture of all images (default).", OUTPUT)]
Mp4 = Annotated[
    bool | None,
    switch("--mp4/--no-mp4", "Write videos as MP4 too, beside GIF; default: where the package av is there.", OUTPUT),
]
Metadata = Annotated[bool, switch("--metadata/--no-metadata", "Write the recipe into each PNG (default).", OUTPUT)]
