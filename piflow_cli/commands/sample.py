"""`piflow sample`: a student, or a teacher, to images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piflow_cli.commands.options import (
    MODEL,
    MOST_VALUES,
    OUTPUT,
    SAMPLING,
    Base,
    Device,
    Json,
    Quiet,
    Subfolder,
    Teacher,
    check_base_precision,
    check_offload,
    check_shift,
    examples,
    parse_guidance,
    parse_lora,
    parse_ranges,
    parse_stochastic,
    parse_temperature,
    setting,
    switch,
)
from piflow_cli.console import Console, format_pairs
from piflow_cli.errors import UsageError

EXAMPLES = examples(
    ("piflow sample runs/digits", "64 images and a grid"),
    ("piflow sample runs/digits --labels 3,5 --seeds 0-15", "chosen classes, seeds"),
    ('piflow sample runs/flux-dev "a red fox" --seeds 0-3', "a prompt, four seeds"),
    ("piflow sample --teacher digits --steps 128", "the teacher itself"),
    closing="An image depends on its seed, and its label or prompt, not on the batch it is made in.",
)


def sample(
    student: Annotated[
        str | None, typer.Argument(metavar="STUDENT", help="A run, an adapter's folder or file, or a Hub id.", show_default=False)
    ] = None,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="What to show, for text-to-image; may come again.", show_default=False)
    ] = None,
    subfolder: Subfolder = None,
    teacher: Teacher = None,
    base: Base = None,
    vae: Annotated[
        str | None, setting("--vae", "What shows latents: a folder or Hub id; default: as trained.", MODEL, "PATH")
    ] = None,
    lora: Annotated[
        list[str] | None, setting("--lora", "One more LoRA, and its scale; may come again.", MODEL, "PATH[:SCALE]")
    ] = None,
    base_precision: Annotated[
        str | None,
        typer.Option(
            "--base-precision",
            metavar="fp32|bf16",
            help="Of the weights below adapters; default: as trained.",
            callback=check_base_precision,
            rich_help_panel=MODEL,
            show_default=False,
        ),
    ] = None,
    offload: Annotated[
        str,
        typer.Option(
            "--offload",
            metavar="HOW",
            help="Weights leave the GPU while idle: model, sequential or group.",
            callback=check_offload,
            rich_help_panel=MODEL,
            show_default=False,
        ),
    ] = "none",
    compile: Annotated[bool, switch("--compile", "Compile the blocks that the network repeats.", MODEL)] = False,
    device: Device = "auto",
    prompts_from: Annotated[
        str | None, setting("--prompts", "A file of prompts, .jsonl with seed, width, height; or a Hub dataset.", SAMPLING, "SOURCE")
    ] = None,
    height: Annotated[int | None, setting("--height", "In pixels; default: 1024.", SAMPLING, "N", 1)] = None,
    width: Annotated[int | None, setting("--width", "In pixels; default: 1024.", SAMPLING, "N", 1)] = None,
    labels: Annotated[str | None, setting("--labels", "Classes, like 0-9 or 3,5.", SAMPLING, "RANGES")] = None,
    seeds: Annotated[str | None, setting("--seeds", "One image per seed, and prompt, like 0-63,100.", SAMPLING, "RANGES")] = None,
    num_images: Annotated[
        int | None, setting("--num-images", "Seeds 0 to N-1; default: 64, or 1 for each prompt.", SAMPLING, "N", 1)
    ] = None,
    steps: Annotated[
        int | None, setting("--steps", "Network evaluations per image; default: as trained.", SAMPLING, "N", 1)
    ] = None,
    shift: Annotated[float | None, setting("--shift", "Of the time grid towards noise; default: as trained.", SAMPLING, "M")] = None,
    substeps: Annotated[
        int | None, setting("--substeps", "Policy substeps per unit of raw time.", SAMPLING, "N", 1)
    ] = None,
    temperature: Annotated[
        str | None, setting("--temperature", "Of the mixture: auto, or at most 1.", SAMPLING, "auto|T")
    ] = None,
    stochastic: Annotated[
        str, setting("--stochastic", "Noise put back between steps: 0 is none, inf all.", SAMPLING, "H")
    ] = "0",
    guidance: Annotated[
        str | None, setting("--guidance", "Of a teacher; a student has its own distilled in.", SAMPLING, "SCALE")
    ] = None,
    batch_size: Annotated[
        int | None, setting("--batch-size", "Images made at once; default: 64, or 1 from prompts.", SAMPLING, "N", 1)
    ] = None,
    output: Annotated[
        Path | None, setting("--output", "Folder of the images; default: samples/<name>.", OUTPUT, "DIR")
    ] = None,
    grid: Annotated[bool, switch("--grid/--no-grid", "Also one picture of all (default).", OUTPUT)] = True,
    metadata: Annotated[
        bool, switch("--metadata/--no-metadata", "The recipe inside each PNG (default).", OUTPUT)
    ] = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make images with a student, or with a teacher for comparison.

    With both, the student is sampled, provided that it was distilled from that teacher. What follows no student but
    --teacher is a prompt if it has a space in it.
    """
    prompts = [] if prompts is None else prompts
    if teacher is not None and student is not None and " " in student.strip() and not Path(student).exists():
        student, prompts = None, [student, *prompts]
    if student is None and teacher is None:
        raise UsageError("neither a student nor a teacher given", "type piflow sample FOLDER, or piflow sample --teacher NAME")
    settings = {
        "labels": None if labels is None else parse_ranges(labels, "--labels"),
        "seeds": _seeds(seeds, num_images),
        "temperature": None if temperature is None else parse_temperature(temperature),
        "stochastic": parse_stochastic(stochastic),
        "guidance": None if guidance is None else parse_guidance(guidance),
        "loras": tuple(parse_lora(text) for text in ([] if lora is None else lora)),
    }
    from piflow_cli.sampling import SampleRequest
    from piflow_cli.sampling import sample as run_sampling

    request = SampleRequest(
        student=student,
        subfolder=subfolder,
        teacher=teacher,
        base=base,
        vae=vae,
        prompts=tuple(prompts),
        prompts_from=prompts_from,
        height=height,
        width=width,
        base_precision=base_precision,
        offload=offload,
        compile=compile,
        steps=steps,
        shift=None if shift is None else check_shift(shift),
        substeps=substeps,
        output=_folder(student, teacher) if output is None else output,
        grid=grid,
        metadata=metadata,
        device=device,
        batch_size=batch_size,
        **settings,
    )
    console = Console(json=json, quiet=quiet)
    result = run_sampling(request, console)
    console.result(result, format_pairs(result))


def _seeds(seeds: str | None, num_images: int | None) -> tuple[int, ...] | None:
    """The seeds that are asked for; None where it is left to the model."""
    if seeds is not None and num_images is not None:
        raise UsageError("--seeds and --num-images exclude each other", "keep --seeds, which counts the images too")
    if seeds is not None:
        return parse_ranges(seeds, "--seeds")
    if num_images is not None and num_images > MOST_VALUES:
        raise UsageError(
            f"--num-images {num_images}: more than {MOST_VALUES:,}", "make them in several runs: --seeds 0-9999"
        )
    return None if num_images is None else tuple(range(num_images))


def _folder(student: str | None, teacher: str | None) -> Path:
    """samples/digits for the student in runs/digits, samples/digits-teacher for its teacher."""
    if student is None:
        return Path("samples") / f"{Path(str(teacher)).stem}-teacher"
    return Path("samples") / Path(student).resolve().name
