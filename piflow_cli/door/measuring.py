"""Measure students, and inspect what their networks decided."""

from __future__ import annotations

from collections.abc import Iterable

from ..console import SILENT, Console
from ..evaluation.request import EvalReport, EvalRequest, parse_metrics
from ..evaluation.run import evaluate as run_evaluation
from ..inspection.inspect import Inspection, InspectRequest, inspect_policy
from ..inspection.slices import Position
from ..sampling.limits import BasePrecision
from .arguments import Place, explained, numbers, numbers_if_given, path, text, texts


@explained
def evaluate(
    students: Place | Iterable[Place] = (),
    *,
    metrics: str | Iterable[str] | None = None,
    reference: Place | None = None,
    images: Place | None = None,
    protocol: str | None = None,
    num_images: int | None = None,
    seeds: Iterable[int] | None = None,
    labels: Iterable[int] | None = None,
    steps: Iterable[int] = (),
    substeps: int | None = None,
    temperature: float | str | None = None,
    teacher_steps: Iterable[int] = (),
    fine_steps: int | None = None,
    extractors: Iterable[str] = (),
    teacher: Place | None = None,
    base: Place | None = None,
    subfolder: str | None = None,
    prompts_from: Place | None = None,
    text_column: str | None = None,
    height: int | None = None,
    width: int | None = None,
    inception_weights: Place | None = None,
    trust_weights: bool = EvalRequest.trust_weights,
    clip: Place | None = None,
    device: str = EvalRequest.device,
    batch_size: int | None = None,
    cache: Place | None = None,
    save_images: bool = EvalRequest.save_images,
    save_statistics: Place | None = None,
    output: Place | None = None,
    console: Console = SILENT,
) -> EvalReport:
    """How good students are, and how far from their teacher, as `piflow eval` measures it.

    Args:
        students: one or several, as :func:`load_student` takes them.
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
        output: a folder that takes the report as a page, with its plots. The others are those of :func:`sample`, and
            the options of `piflow eval` of the same names.

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
    request = EvalRequest(
        students=texts(students), metrics=None if metrics is None else parse_metrics(",".join(texts(metrics))),
        reference=text(reference), images=path(images), protocol=protocol, num_images=num_images,
        seeds=numbers_if_given(seeds), labels=numbers_if_given(labels), steps=numbers(steps), substeps=substeps,
        temperature=temperature, teacher_steps=numbers(teacher_steps), fine_steps=fine_steps,
        extractors=texts(extractors), teacher=text(teacher), base=text(base), subfolder=subfolder,
        prompts_from=text(prompts_from), text_column=text_column, height=height, width=width,
        inception_weights=path(inception_weights), trust_weights=trust_weights, clip=text(clip), device=device,
        batch_size=batch_size, cache=path(cache), save_images=save_images, save_statistics=path(save_statistics),
        output=path(output),
    )  # fmt: skip
    return run_evaluation(request, console)[0]


@explained
def inspect(
    students: Place | Iterable[Place],
    prompts: str | Iterable[str] = (),
    *,
    at: int = InspectRequest.at,
    position: tuple[int, ...] | None = None,
    seeds: Iterable[int] | None = None,
    labels: Iterable[int] | None = None,
    teacher: Place | None = None,
    base: Place | None = None,
    subfolder: str | None = None,
    vae: Place | None = None,
    base_precision: BasePrecision | None = None,
    prompts_from: Place | None = None,
    text_column: str | None = None,
    height: int | None = None,
    width: int | None = None,
    device: str = InspectRequest.device,
    output: Place | None = None,
    overwrite: bool = InspectRequest.overwrite,
    console: Console = SILENT,
) -> Inspection:
    """What a student's network decided, and how its policy holds against the teacher, as `piflow inspect-policy` tells.

    Args:
        students: one, or two in the same figures, as :func:`load_student` takes them.
        at: network evaluation of the close-up, from 1.
        position: column, row and, if not 0, channel of the slice through the state.
        output: a folder that takes the page and its pictures.
        overwrite: replace an earlier report in that folder.
        seeds: seeds of the images to inspect; default: the first 16.

    The other arguments are those of :func:`sample`.

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
    request = InspectRequest(
        students=texts(students), prompts=texts(prompts), at=at, seeds=numbers_if_given(seeds),
        position=None if position is None else Position(*numbers(position)), labels=numbers_if_given(labels),
        teacher=text(teacher), base=text(base), subfolder=subfolder, vae=text(vae), base_precision=base_precision,
        prompts_from=text(prompts_from), text_column=text_column, height=height, width=width, device=device,
        output=path(output), overwrite=overwrite,
    )  # fmt: skip
    return inspect_policy(request, console)
