"""Measure students, and inspect what their networks decided."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from typing_extensions import Unpack

from ..console import SILENT
from ..evaluation.request import EvalReport, EvalRequest, parse_metrics
from ..evaluation.run import evaluate as run_evaluation
from ..inspection.inspect import Inspection, inspect_policy
from ..inspection.request import InspectRequest, Position
from .arguments import Device, FileOrFolder, Sources, Speaker, Taken, Texts, whole_numbers
from .calls import public, request_of
from .options import EvalOptions, InspectOptions

Cut = Annotated[
    tuple[int, int] | tuple[int, int, int],
    Taken("a column and a row, or those and a channel, like (3, 4)", lambda given: Position(*whole_numbers(given))),
]


@public(EvalOptions, EvalRequest)
def evaluate(
    students: Sources = (),
    *,
    output: FileOrFolder | None = None,
    device: Device = EvalRequest.device,
    console: Speaker = SILENT,
    **options: Unpack[EvalOptions],
) -> EvalReport:
    """How good students are, and how far from their teacher, as `piflow eval` measures it.

    Args:
        students: one or several, as ``load_student`` takes them.
        metrics: names of metrics, like fid and alignment; default: all that need no further weights.
        reference: data, teacher, a folder, a file of statistics or clean-fid:NAME; default: the data, or else the
            teacher.
        images: a folder of pictures in place of students.
        protocol: quick or full.
        num_images: number of images, of seeds 0, 1, ...
        seeds: seeds of the images, in place of ``num_images``.
        labels: classes of the images; default: as in the data.
        steps: network evaluations of each student; default: as trained.
        teacher_steps: numbers of Euler steps at which the teacher gets rows of its own.
        fine_steps: Euler steps of the teacher's fine solution.
        extractors: names of feature extractors.
        cache: folder that keeps what was generated; default: ~/.cache/piflow.
        output: a new or empty folder that takes the report as a page, with its plots.
        overwrite: replace an earlier report in that folder. The others are those of ``sample``, and the options of
            `piflow eval` of the same names.

    Returns what `piflow eval --json` prints: ``results`` has a row for each number, with ``model``, ``nfe``,
    ``metric``, ``value``, the interval ``low`` to ``high`` where there is one, and the protocol.

    Raises:
        UsageError: what is asked does not go together or is not there; nothing has been generated then.
        RunError: weights or packages are missing, or files are damaged.

    >>> import piflow_cli as piflow
    >>> report = piflow.evaluate("runs/short", metrics=["alignment"], num_images=8, fine_steps=4)
    >>> [(row["metric"], row["nfe"], row["images"]) for row in report["results"] if row["kind"] == "student"]
    [('mse', 2, 8), ('psnr', 2, 8)]
    """
    request = request_of(EvalRequest, options, students=students, output=output, device=device)
    named = None if request.metrics is None else parse_metrics(",".join(request.metrics))
    return run_evaluation(replace(request, metrics=named), console)[0]


@public(InspectOptions, InspectRequest)
def inspect(
    students: Sources,
    prompts: Texts = (),
    *,
    position: Cut | None = None,
    output: FileOrFolder | None = None,
    device: Device = InspectRequest.device,
    console: Speaker = SILENT,
    **options: Unpack[InspectOptions],
) -> Inspection:
    """What a student's network decided, and how its policy holds against the teacher, as `piflow inspect-policy` tells.

    Args:
        students: one, or two in the same figures, as ``load_student`` takes them.
        at: network evaluation of the close-up, from 1.
        position: column, row and, if not 0, channel of the slice through the state.
        output: a folder that takes the page and its pictures.
        overwrite: replace an earlier report in that folder.
        seeds: seeds of the images to inspect; default: the first 16.

    The other arguments are those of ``sample``.

    Returns what `piflow inspect-policy --json` prints: ``students`` with all numbers of each, ``verdict`` with a row
    for each thing that was measured, and the ``files`` that were written.

    Raises:
        UsageError: what is asked does not go together or is not there.
        RunError: files are damaged, or the student emits what is no policy.

    >>> import piflow_cli as piflow
    >>> found = piflow.inspect("runs/short", seeds=range(2))
    >>> found["students"][0]["nfe"], found["verdict"][0]["what"]
    (2, 'policy')
    """
    request = request_of(
        InspectRequest, options, students=students, prompts=prompts, position=position, output=output, device=device
    )
    return inspect_policy(request, console)
