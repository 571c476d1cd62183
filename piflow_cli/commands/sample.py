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
    Teacher,
    examples,
    parse_ranges,
    parse_stochastic,
    parse_temperature,
    setting,
    switch,
)
from piflow_cli.console import Console, format_pairs
from piflow_cli.errors import UsageError

DEFAULT_IMAGES = 64

EXAMPLES = examples(
    ("piflow sample runs/digits", "64 images and a grid"),
    ("piflow sample runs/digits --labels 3,5 --seeds 0-15", "chosen classes, seeds"),
    ("piflow sample --teacher digits --steps 128", "the teacher itself"),
    closing="An image depends on its seed and label alone, not on the batch it is made in.",
)


def sample(
    student: Annotated[
        str | None, typer.Argument(metavar="STUDENT", help="Folder of a run or of an adapter.", show_default=False)
    ] = None,
    teacher: Teacher = None,
    base: Base = None,
    vae: Annotated[
        str | None, setting("--vae", "What shows latents: a folder or Hub id; default: as trained.", MODEL, "PATH")
    ] = None,
    device: Device = "auto",
    labels: Annotated[str | None, setting("--labels", "Classes, like 0-9 or 3,5.", SAMPLING, "RANGES")] = None,
    seeds: Annotated[str | None, setting("--seeds", "One image per seed, like 0-63,100.", SAMPLING, "RANGES")] = None,
    num_images: Annotated[
        int | None, setting("--num-images", f"Seeds 0 to N-1; default: {DEFAULT_IMAGES}.", SAMPLING, "N", 1)
    ] = None,
    steps: Annotated[
        int | None, setting("--steps", "Network evaluations per image; default: as trained.", SAMPLING, "N", 1)
    ] = None,
    substeps: Annotated[
        int | None, setting("--substeps", "Policy substeps per unit of raw time.", SAMPLING, "N", 1)
    ] = None,
    temperature: Annotated[
        str | None, setting("--temperature", "Of the mixture: auto, or at most 1.", SAMPLING, "auto|T")
    ] = None,
    stochastic: Annotated[
        str, setting("--stochastic", "Noise put back between steps: 0 is none, inf all.", SAMPLING, "H")
    ] = "0",
    batch_size: Annotated[int, setting("--batch-size", "Images made at once.", SAMPLING, "N", 1)] = 64,
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

    With both, the student is sampled, provided that it was distilled from that teacher.
    """
    if student is None and teacher is None:
        raise UsageError("neither a student nor a teacher given", "type piflow sample FOLDER, or piflow sample --teacher NAME")
    settings = {
        "labels": None if labels is None else parse_ranges(labels, "--labels"),
        "seeds": _seeds(seeds, num_images),
        "temperature": None if temperature is None else parse_temperature(temperature),
        "stochastic": parse_stochastic(stochastic),
    }
    from piflow_cli.sampling import SampleRequest
    from piflow_cli.sampling import sample as run_sampling

    request = SampleRequest(
        student=student,
        teacher=teacher,
        base=base,
        vae=vae,
        steps=steps,
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


def _seeds(seeds: str | None, num_images: int | None) -> tuple[int, ...]:
    if seeds is not None and num_images is not None:
        raise UsageError("--seeds and --num-images exclude each other", "keep --seeds, which counts the images too")
    if seeds is not None:
        return parse_ranges(seeds, "--seeds")
    count = DEFAULT_IMAGES if num_images is None else num_images
    if count > MOST_VALUES:
        raise UsageError(
            f"--num-images {count}: more than {MOST_VALUES:,}", "make them in several runs: --seeds 0-9999"
        )
    return tuple(range(count))


def _folder(student: str | None, teacher: str | None) -> Path:
    """samples/digits for the student in runs/digits, samples/digits-teacher for its teacher."""
    if student is None:
        return Path("samples") / f"{Path(str(teacher)).stem}-teacher"
    return Path("samples") / Path(student).resolve().name
