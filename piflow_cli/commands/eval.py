"""`piflow eval`: the quality of students, and their distance from their teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from piflow_cli.commands.eval_options import (
    BatchSize,
    Cache,
    Clip,
    Compare,
    Extractor,
    FailAbove,
    FailBelow,
    FineSteps,
    Full,
    Images,
    InceptionWeights,
    Labels,
    Metrics,
    NumImages,
    Output,
    Quick,
    Reference,
    SaveImages,
    SaveStatistics,
    Steps,
    Students,
    TeacherSteps,
    TrustWeights,
)
from piflow_cli.commands.options import (
    Base,
    Device,
    Json,
    NumProcesses,
    Overwrite,
    Quiet,
    Subfolder,
    Teacher,
    TextColumn,
    examples,
    parse_ranges,
    read_options,
)
from piflow_cli.commands.sample_options import Frames, Height, PromptsFrom, Seeds, Substeps, Temperature, Width
from piflow_cli.commands.starting import start
from piflow_cli.console import Console
from piflow_cli.errors import UsageError
from piflow_cli.presets.bounds import EVALUATIONS, TEACHER_STEPS, Bound
from piflow_cli.students.naming import student_name
from piflow_cli.system.outputs import output_folder

EXAMPLES = examples(
    ("piflow eval runs/digits", "against the training data"),
    ("piflow eval runs/gm runs/dx --teacher-steps 1,4", "several models side by side"),
    ("piflow eval runs/digits --reference teacher", "against the teacher at its best"),
    ("piflow eval --images DIR --reference DIR", "pictures, and no model"),
    closing="What was generated once is kept in the cache: another metric or reference generates nothing anew.",
)
# Options that the request takes under the same names.
AS_THEY_ARE = (
    *("reference", "trust_weights", "clip", "num_images", "height", "width", "frames", "substeps", "fine_steps"),
    *("base", "subfolder", "batch_size", "save_images", "device", "text_column", "seeds", "labels", "temperature"),
    *("images", "inception_weights", "cache", "save_statistics", "overwrite", "teacher"),
)


def eval(
    context: typer.Context,
    students: Students = None,
    compare: Compare = None,
    images: Images = None,
    subfolder: Subfolder = None,
    teacher: Teacher = None,
    base: Base = None,
    device: Device = "auto",
    num_processes: NumProcesses = None,
    reference: Reference = None,
    metrics: Metrics = None,
    fail_above: FailAbove = None,
    fail_below: FailBelow = None,
    extractor: Extractor = None,
    inception_weights: InceptionWeights = None,
    trust_weights: TrustWeights = False,
    clip: Clip = None,
    quick: Quick = False,
    full: Full = False,
    num_images: NumImages = None,
    seeds: Seeds = None,
    labels: Labels = None,
    prompts: PromptsFrom = None,
    text_column: TextColumn = None,
    height: Height = None,
    width: Width = None,
    frames: Frames = None,
    steps: Steps = None,
    substeps: Substeps = None,
    temperature: Temperature = None,
    teacher_steps: TeacherSteps = None,
    fine_steps: FineSteps = None,
    batch_size: BatchSize = None,
    cache: Cache = None,
    save_images: SaveImages = False,
    save_statistics: SaveStatistics = None,
    output: Output = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure students, or a folder of pictures.

    Every number has its protocol. The report has all as JSON, as a page, and as plots.
    """
    named = tuple(students or ()) + tuple(compare or ())
    told = read_options(context, *AS_THEY_ARE) | {
        "steps": _counts(steps, "--steps", EVALUATIONS),
        "teacher_steps": _counts(teacher_steps, "--teacher-steps", TEACHER_STEPS),
        "protocol": _protocol(quick, full),
        "output": output_folder(output, _folder(named, subfolder, images), overwrite),
        "extractors": tuple(extractor or ()),
        "prompts_from": prompts,
    }
    _run(context, num_processes, named, metrics, (fail_above, fail_below), told, Console(json=json, quiet=quiet))


def _protocol(quick: bool, full: bool) -> str | None:
    if quick and full:
        raise UsageError("--quick and --full exclude each other", "keep one of them")
    return "quick" if quick else "full" if full else None


def _run(
    context: typer.Context,
    processes: int | None,
    students: tuple[str, ...],
    metrics: str | None,
    failing: tuple[list[str] | None, list[str] | None],
    told: dict[str, Any],
    console: Console,
) -> None:
    from piflow_cli.evaluation.early import check
    from piflow_cli.evaluation.limits import hold, parse_limits
    from piflow_cli.evaluation.request import EvalRequest, parse_metrics
    from piflow_cli.system.processes import process_count

    wanted = None if metrics is None else parse_metrics(metrics)
    limits = parse_limits(*(() if texts is None else texts for texts in failing))
    request = EvalRequest(students=students, metrics=wanted, limits=limits, **told)
    check(request)

    if processes not in (None, 1) and request.images is not None:
        raise UsageError(
            f"--num-processes {processes}: nothing is generated for a folder of pictures, and one process measures it",
            "leave --num-processes out",
        )

    def run() -> None:
        # Takes seconds to import.
        from piflow_cli.evaluation.run import evaluate

        with console.listening():
            result, text = evaluate(request, console)
        console.result(result, text)
        # Of several processes the first alone has numbers.
        if "results" in result:
            hold(limits, result["results"])

    start(process_count(processes, request.device), context, run)


def _counts(text: str | None, option: str, bound: Bound) -> tuple[int, ...]:
    """Numbers of evaluations, none where none are given."""
    counts = () if text is None else parse_ranges(text, option)
    if 0 in counts:
        raise UsageError(f"{option} {text}: no evaluation makes no picture", f"start at 1: {option} 1,2,4")
    for count in counts:
        bound.option(option)(count)
    return counts


def _folder(students: tuple[str, ...], subfolder: str | None, images: Path | None) -> Path:
    """evals/digits for the student in runs/digits or the pictures in a folder digits; the first names several."""
    pictures = Path() if images is None else images
    return Path("evals") / (student_name(students[0], subfolder) if students else pictures.resolve().name)
