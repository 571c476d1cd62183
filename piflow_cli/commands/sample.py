"""`piflow sample`: from a student, or a teacher, to images."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from piflow_cli.commands.options import (
    Base,
    BasePrecision,
    Device,
    Json,
    NumProcesses,
    Overwrite,
    Quiet,
    Subfolder,
    Teacher,
    TextColumn,
    examples,
    parse_lora,
    parse_ranges,
    read_options,
)
from piflow_cli.commands.sample_options import (
    BatchSize,
    Compile,
    Frames,
    Grid,
    GuidanceScale,
    Height,
    Labels,
    Loras,
    Metadata,
    Mp4,
    NumImages,
    Offload,
    Output,
    Prompts,
    PromptsFrom,
    References,
    Seeds,
    Shift,
    Steps,
    Stochastic,
    Student,
    Substeps,
    Temperature,
    Vae,
    Width,
)
from piflow_cli.commands.starting import start
from piflow_cli.console import Console, format_pairs
from piflow_cli.errors import UsageError
from piflow_cli.students.naming import student_name, teacher_name
from piflow_cli.system.outputs import output_folder
from piflow_cli.wording import shortened

EXAMPLES = examples(
    ("piflow sample runs/digits", "64 images and a grid"),
    ("piflow sample runs/digits --labels 3,5 --seeds 0-15", "chosen classes, seeds"),
    ('piflow sample runs/flux-dev "a red fox" --seeds 0-3', "a prompt, four seeds"),
    ("piflow sample --teacher digits --steps 128", "the teacher itself"),
    closing="An image depends on its seed, and its label or prompt, not on the batch it is made in.",
)


def sample(
    context: typer.Context,
    student: Student = None,
    prompts: Prompts = None,
    subfolder: Subfolder = None,
    teacher: Teacher = None,
    base: Base = None,
    vae: Vae = None,
    lora: Loras = None,
    compile: Compile = False,
    device: Device = "auto",
    num_processes: NumProcesses = None,
    base_precision: BasePrecision = None,
    offload: Offload = "none",
    prompts_from: PromptsFrom = None,
    text_column: TextColumn = None,
    reference: References = None,
    height: Height = None,
    width: Width = None,
    frames: Frames = None,
    labels: Labels = None,
    seeds: Seeds = None,
    num_images: NumImages = None,
    steps: Steps = None,
    shift: Shift = None,
    substeps: Substeps = None,
    temperature: Temperature = None,
    stochastic: Stochastic = "0",
    guidance: GuidanceScale = None,
    batch_size: BatchSize = None,
    output: Output = None,
    overwrite: Overwrite = False,
    grid: Grid = True,
    mp4: Mp4 = None,
    metadata: Metadata = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make images with a student, or with a teacher for comparison.

    With both, it samples the student, which must have been distilled from that teacher.
    Beside --teacher, an argument with a space in it is a prompt.
    """
    student, told = _named(student, prompts, teacher)
    options = read_options(
        context,
        *("subfolder", "teacher", "base", "vae", "prompts_from", "text_column", "height", "width", "base_precision"),
        *("offload", "compile", "steps", "substeps", "grid", "metadata", "device", "batch_size", "labels", "shift"),
        *("temperature", "stochastic", "guidance", "overwrite", "frames", "mp4"),
    )
    options |= dict(
        student=student,
        prompts=told,
        references=() if reference is None else tuple(reference),
        loras=tuple(parse_lora(text) for text in ([] if lora is None else lora)),
        seeds=_seeds(seeds, num_images),
        output=output_folder(output, _folder(student, subfolder, teacher), overwrite),
    )
    _run(context, num_processes, options, Console(json=json, quiet=quiet))


def _named(student: str | None, prompts: list[str] | None, teacher: str | None) -> tuple[str | None, tuple[str, ...]]:
    """Student and prompts; beside a teacher, an argument with a space in it that is no path is a prompt."""
    told = () if prompts is None else tuple(prompts)
    if student is not None and " " in student.strip() and not _is_path(student):
        if teacher is not None:
            return None, (student, *told)
        raise UsageError(
            f"there is no student at {shortened(student)}",
            'a prompt needs a model: --teacher NAME; or a student before it: piflow sample RUN "a red fox"',
        )
    if student is None and teacher is None:
        raise UsageError(
            "neither a student nor a teacher given", "type piflow sample FOLDER, or piflow sample --teacher NAME"
        )
    return student, told


def _is_path(text: str) -> bool:
    """Whether something is at ``text``, or the folder that it would lie in is there."""
    place = os.path.expanduser(text)
    folder = os.path.dirname(place.rstrip(os.sep))
    # Unlike pathlib's, these tests take a text that is too long for a name; a prompt may begin with a slash.
    return os.path.exists(place) or (folder != os.sep and os.path.isdir(folder))


def _run(context: typer.Context, processes: int | None, options: dict, console: Console) -> None:
    from piflow_cli.sampling.early import check
    from piflow_cli.sampling.request import SampleRequest
    from piflow_cli.system.processes import process_count

    request = SampleRequest(**options)
    check(request)

    def run() -> None:
        # Takes seconds to import.
        from piflow_cli.sampling.sample import sample as run_sampling

        with console.listening():
            result = run_sampling(request, console)
        console.result(result, format_pairs(result))

    start(process_count(processes, request.device), context, run)


def _seeds(seeds: str | None, num_images: int | None) -> tuple[int, ...] | None:
    """The seeds that are asked for; None where the model chooses."""
    if seeds is not None and num_images is not None:
        raise UsageError("--seeds and --num-images exclude each other", "keep --seeds, which counts the images too")
    if seeds is not None:
        return parse_ranges(seeds, "--seeds")
    return None if num_images is None else tuple(range(num_images))


def _folder(student: str | None, subfolder: str | None, teacher: str | None) -> Path:
    """samples/digits for the student in runs/digits, samples/digits-teacher for its teacher."""
    if student is None:
        return Path("samples") / f"{teacher_name(str(teacher))}-teacher"
    return Path("samples") / student_name(student, subfolder)
