"""`piflow eval`: how good students are, and how far from their teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piflow_cli.commands.options import (
    DATA,
    MODEL,
    OUTPUT,
    SAMPLING,
    Base,
    Device,
    Json,
    Quiet,
    Subfolder,
    Teacher,
    examples,
    parse_ranges,
    parse_temperature,
    setting,
    switch,
)
from piflow_cli.console import Console
from piflow_cli.errors import UsageError
from piflow_cli.naming import student_name

MEASURING = "Measuring"
EXAMPLES = examples(
    ("piflow eval runs/digits", "against the training data"),
    ("piflow eval runs/gm runs/dx --teacher-steps 1,4", "several models side by side"),
    ("piflow eval runs/digits --reference teacher", "against the teacher at its best"),
    ("piflow eval --images DIR --reference DIR", "pictures, and no model"),
    closing="What was generated once is kept in the cache: another metric or reference generates nothing anew.",
)


def eval(
    students: Annotated[
        list[str] | None,
        typer.Argument(metavar="STUDENT", help="Runs, adapters' folders or files, or Hub ids; several stand side by side.", show_default=False),
    ] = None,
    compare: Annotated[
        list[str] | None, setting("--compare", "One more student; may come again.", MODEL, "STUDENT")
    ] = None,
    images: Annotated[
        Path | None, setting("--images", "A folder of pictures, in place of a student.", MODEL, "DIR")
    ] = None,
    subfolder: Subfolder = None,
    teacher: Teacher = None,
    base: Base = None,
    device: Device = "auto",
    reference: Annotated[
        str | None,
        setting(
            "--reference", "data, teacher, a folder, a file of statistics or clean-fid:NAME; default: data, or else teacher.",
            MEASURING, "WHAT",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        setting("--metrics", "Of fid,kid,is,pr,patch-fid,clip, alignment,diversity,trajectory,speed; default: all but kid,is,patch-fid,clip.", MEASURING, "NAMES"),
    ] = None,
    extractor: Annotated[
        list[str] | None,
        setting("--extractor", "What looks at pictures: pixels, digits-classifier, inception, inception-tf, dinov2:PATH; may come again.", MEASURING, "NAME"),
    ] = None,
    inception_weights: Annotated[
        Path | None, setting("--inception-weights", "Where they are, if in none of the usual caches.", MEASURING, "FILE")
    ] = None,
    clip: Annotated[str | None, setting("--clip", "The CLIP of the CLIP score; default: ViT-L/14.", MEASURING, "PATH")] = None,
    quick: Annotated[bool, switch("--quick", "1,000 images and the metrics that take the least.", MEASURING)] = False,
    full: Annotated[bool, switch("--full", "The paper's protocol: 50,000 images, or 10,000 prompts.", MEASURING)] = False,
    num_images: Annotated[
        int | None, setting("--num-images", "How many; default: as many as the training set, or 1,000.", SAMPLING, "N", 1)
    ] = None,
    seeds: Annotated[str | None, setting("--seeds", "One image per seed, and prompt, like 0-63,100.", SAMPLING, "RANGES")] = None,
    labels: Annotated[
        str | None, setting("--labels", "Classes, like 0-9 or 3,5; default: as in the data.", SAMPLING, "RANGES")
    ] = None,
    prompts: Annotated[str | None, setting("--prompts", "A file of prompts, or a Hub dataset.", SAMPLING, "SOURCE")] = None,
    height: Annotated[int | None, setting("--height", "In pixels; default: 1024.", SAMPLING, "N", 1)] = None,
    width: Annotated[int | None, setting("--width", "In pixels; default: 1024.", SAMPLING, "N", 1)] = None,
    steps: Annotated[
        str | None, setting("--steps", "Network evaluations of students, like 1,2,4; default: as trained.", SAMPLING, "RANGES")
    ] = None,
    substeps: Annotated[int | None, setting("--substeps", "Policy substeps per unit of raw time; default: as trained.", SAMPLING, "N", 1)] = None,
    temperature: Annotated[str | None, setting("--temperature", "Of the mixture: auto, or at most 1; default: as trained.", SAMPLING, "auto|T")] = None,
    teacher_steps: Annotated[
        str | None, setting("--teacher-steps", "Also measure the teacher at these Euler steps, like 1,4,32.", SAMPLING, "RANGES")
    ] = None,
    fine_steps: Annotated[
        int | None, setting("--fine-steps", "Of the teacher's fine solution; default: 128, or 50 from prompts.", SAMPLING, "N", 1)
    ] = None,
    batch_size: Annotated[
        int | None, setting("--batch-size", "Images made at once; default: 128, or 1 from prompts.", SAMPLING, "N", 1)
    ] = None,
    cache: Annotated[
        Path | None, setting("--cache", "Folder of what was generated; default: ~/.cache/piflow.", DATA, "DIR")
    ] = None,
    save_images: Annotated[bool, switch("--save-images", "Also write every picture.", OUTPUT)] = False,
    save_statistics: Annotated[
        Path | None, setting("--save-statistics", "Keep those of --images here, for --reference; .safetensors.", OUTPUT, "FILE")
    ] = None,
    output: Annotated[Path | None, setting("--output", "Folder of the report; default: evals/<name>.", OUTPUT, "DIR")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure students, or a folder of pictures.

    Every number is printed with its protocol. The report has the same as JSON, as a page, and as plots.
    """
    if quick and full:
        raise UsageError("--quick and --full exclude each other", "keep one of them")
    console = Console(json=json, quiet=quiet)
    from piflow_cli.evaluation.request import EvalRequest, parse_metrics
    from piflow_cli.evaluation.run import evaluate

    named = tuple(students or ()) + tuple(compare or ())
    request = EvalRequest(
        students=named,
        images=images,
        reference=reference,
        metrics=None if metrics is None else parse_metrics(metrics),
        protocol="quick" if quick else "full" if full else None,
        extractors=tuple(extractor or ()),
        inception_weights=inception_weights,
        clip=clip,
        num_images=num_images,
        seeds=None if seeds is None else parse_ranges(seeds, "--seeds"),
        labels=None if labels is None else parse_ranges(labels, "--labels"),
        prompts_from=prompts,
        height=height,
        width=width,
        steps=_counts(steps, "--steps"),
        substeps=substeps,
        temperature=None if temperature is None else parse_temperature(temperature),
        teacher_steps=_counts(teacher_steps, "--teacher-steps"),
        fine_steps=fine_steps,
        teacher=teacher,
        base=base,
        subfolder=subfolder,
        batch_size=batch_size,
        cache=cache,
        save_images=save_images,
        save_statistics=save_statistics,
        output=_folder(named, subfolder, images) if output is None else output,
        device=device,
    )
    console.result(*evaluate(request, console))


def _counts(text: str | None, option: str) -> tuple[int, ...]:
    """Numbers of evaluations, none where none are given."""
    counts = () if text is None else parse_ranges(text, option)
    if 0 in counts:
        raise UsageError(f"{option} {text}: no evaluation makes no picture", f"start at 1: {option} 1,2,4")
    return counts


def _folder(students: tuple[str, ...], subfolder: str | None, images: Path | None) -> Path:
    """evals/digits for the student in runs/digits or the pictures in a folder digits; the first names several."""
    pictures = Path() if images is None else images
    return Path("evals") / (student_name(students[0], subfolder) if students else pictures.resolve().name)
