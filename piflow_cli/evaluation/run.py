"""`piflow eval` from a request to a report."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from ..console import format_pairs
from ..packages import object_at
from ..reports.images import to_images
from ..reports.videos import STRIP, strip_places, to_videos
from ..sampling.text import WIDEST_ROW
from ..students.naming import student_names
from ..system.devices import keep_freed_memory
from ..system.files import user_cache
from ..system.group import Processes, open_processes
from ..system.versions import collect
from ..weights.cache import Cache
from ..weights.cache_kinds import EVAL
from .candidates import Candidate
from .chosen_extractors import ChosenExtractor, ChosenExtractors, reference_of
from .compared import Compared, open_compared
from .early import check
from .extractor_kinds import extractor_kind
from .folder_run import FolderRequest, evaluate_folder, extractor_of
from .generate import Generation, MetricExtractor
from .measuring import Measuring
from .metric_kinds import FINE, OWN_TEACHER, STUDENT, metric_kind, needing
from .reference_kinds import TEACHER
from .report import Report, write_report
from .report_folder import IMAGES
from .request import EvalReport, EvalRequest
from .rows import Row

if TYPE_CHECKING:
    from ..console import Console

CLASS_BATCH, TEXT_BATCH = 128, 1
FOLDER_BATCH = 64
# Options that shape pictures or numbers and stand in no row; the report tells those that were given.
SETTINGS = (
    "labels",
    "prompts_from",
    "text_column",
    "height",
    "width",
    "frames",
    "substeps",
    "temperature",
    "teacher",
    "base",
    "subfolder",
    "batch_size",
)


def evaluate(request: EvalRequest, console: Console) -> tuple[EvalReport, str]:
    """Measure what ``request`` names and write the report; returns it for --json, and as text.

    Several processes share what is generated. The first of them measures and writes, and the others return nothing.

    Raises:
        UsageError: what is asked does not go together or is not there; nothing has been generated then.
        RunError: weights or packages are missing, or files are damaged.
    """
    check(request)
    started = time.perf_counter()
    processes = open_processes(request.device)
    if processes.device.type == "cpu":
        keep_freed_memory()
    report = Report(title=_title(request), recipe=_recipe(request, processes))
    if request.images is not None:
        _folder_rows(request, processes, report, console)
    else:
        _student_rows(request, processes, report, console)
    if not processes.first:
        return {}, ""
    saved = {} if request.save_statistics is None else {"statistics": request.save_statistics}
    measured = request.measured
    files = write_report(report, request.output) if measured and request.output is not None else {}
    written = {**files, **saved, "seconds": round(time.perf_counter() - started, 1)}
    told = format_pairs(written)
    return {**report.as_dict(), **written}, f"{report.text()}\n\n{told}" if measured else told


def _title(request: EvalRequest) -> str:
    return (
        f"{request.images} against {request.reference}"
        if request.images is not None
        else "piflow eval: " + ", ".join(student_names(request.students, request.subfolder))
    )


def _recipe(request: EvalRequest, processes: Processes) -> dict:
    versions = collect()
    return {
        "students": list(request.students),
        "images": request.images,
        "metrics": ",".join(request.measures),
        "protocol": request.protocol or "as the options say",
        "device": str(processes.device),
        "processes": processes.count,
        **{name: value for name in SETTINGS if (value := getattr(request, name)) not in (None, ())},
        "versions": {name: versions[name] for name in ("piflow", "python", "torch", "diffusers")},
    }


def folder_requests(request: EvalRequest) -> list[FolderRequest]:
    """What is asked of the folder of pictures, once for each extractor."""
    assert request.images is not None
    return [
        FolderRequest(
            images=request.images,
            reference=request.reference,
            extractor=name,
            metrics=request.metrics,
            protocol=request.protocol,
            count=request.num_images,
            batch_size=FOLDER_BATCH if request.batch_size is None else request.batch_size,
            inception_weights=request.inception_weights if extractor_kind(name).takes_weights else None,
            trust_weights=request.trust_weights,
            cache=request.cache,
            save_to=request.save_statistics,
        )
        for name in request.extractors or ("inception",)
    ]


def _folder_rows(request: EvalRequest, processes: Processes, report: Report, console: Console) -> None:
    """One process is enough where nothing is generated."""
    if not processes.first:
        return
    requests = folder_requests(request)
    # All are opened before the first of them measures: what is missing for one is known at once.
    extractors = [extractor_of(folder, processes.device, console) for folder in requests]
    for folder, extractor in zip(requests, extractors, strict=True):
        for found in evaluate_folder(folder, processes.device, console, extractor):
            report.rows.append(
                Row(
                    str(folder.images),
                    "images",
                    "",
                    None,
                    found.metric,
                    found.value,
                    found.images,
                    low=found.low,
                    high=found.high,
                    estimate=found.estimate,
                    at=found.at,
                    extractor=found.extractor,
                    resize=found.resize,
                    reference=found.reference,
                    reference_images=found.reference_images,
                    note=found.note,
                )
            )


def _student_rows(request: EvalRequest, processes: Processes, report: Report, console: Console) -> None:
    """Add the rows of one student after another, so that one is in memory at a time.

    A teacher that several share gets its rows once.
    """
    extractors = ChosenExtractors(request, processes.device, console)
    cache = Cache(user_cache(request.cache) / EVAL)
    if processes.first:
        cache.forget_unused()
    told: set[str] = set()
    teachers: dict[str, str] = {}
    for path, name in zip(request.students, student_names(request.students, request.subfolder)):
        compared = processes.together(partial(open_compared, path, name, request, processes.device, console))
        _rows_of(request, named_apart(compared, teachers), extractors, cache, processes, report, told, console)
        # The next student is opened when nothing of this one is left, nor of its base.
        del compared
        gc.collect()


def _rows_of(
    request: EvalRequest,
    compared: Compared,
    extractors: ChosenExtractors,
    cache: Cache,
    processes: Processes,
    report: Report,
    told: set[str],
    console: Console,
) -> None:
    """Add one student's rows and samples; ``told``: the teachers that have theirs."""
    all_chosen, own = processes.together(lambda: _checked(request, compared, extractors))
    generation = Generation(
        compared.opened, compared.specs, {one.tag: one for one in [*all_chosen, *own.values()]}, cache, processes,
        batch_size=(TEXT_BATCH if compared.text else CLASS_BATCH) if request.batch_size is None else request.batch_size,
        images=request.output / IMAGES if request.save_images and request.output is not None else None,
        written=report.pictures,
    )  # fmt: skip
    fine = _fine(request, compared)
    if fine is not None:
        generation.run(fine, console, aligned=reference_of(request, compared) != TEACHER)
    for candidate in [*compared.teachers, *compared.students]:
        generation.run(candidate, console)
    if not processes.first:
        return
    report.pictures |= generation.written
    if compared.frames is not None:
        # Where none is named, videos have more metrics than the request knew of.
        report.recipe = {**report.recipe, "metrics": ",".join(compared.measures(request))}
    beside = [candidate for candidate in compared.teachers if str(candidate.identity) not in told]
    told.update(str(candidate.identity) for candidate in beside)
    candidates = [*beside, *compared.students]
    Measuring(request, compared, generation, extractors, all_chosen, own, candidates, report, console).run()
    _add_samples(
        report, compared, generation, [*([fine] if fine is not None else []), *compared.students, *compared.teachers]
    )


def named_apart(compared: Compared, names: dict[str, str]) -> Compared:
    """``compared`` with its teacher under a name of its own.

    The first is the teacher; another has the name of its preset, with a number where several share it. ``names`` holds
    those that are given, by the identity of the fine solution.
    """
    if compared.fine is None:
        return compared
    name = names.get(str(compared.fine.identity))
    if name is None:
        plain = f"{TEACHER} of {compared.opened.student.facts.teacher}" if names else TEACHER
        numbered = (plain if number == 1 else f"{plain} ({number})" for number in count(1))
        names[str(compared.fine.identity)] = name = next(free for free in numbered if free not in names.values())
    return replace(
        compared,
        fine=replace(compared.fine, name=name),
        teachers=tuple(replace(candidate, name=name) for candidate in compared.teachers),
    )


def _fine(request: EvalRequest, compared: Compared) -> Candidate | None:
    """The teacher's fine solution, where something is compared with it."""
    is_compared = any(name in needing(FINE) for name in compared.measures(request))
    return compared.fine if is_compared or reference_of(request, compared) == TEACHER else None


def _checked(
    request: EvalRequest, compared: Compared, extractors: ChosenExtractors
) -> tuple[list[ChosenExtractor], dict[str, MetricExtractor]]:
    """The extractors that are to see this student's pictures, and those of one metric alone.

    What the student cannot be asked is refused here, before anything is generated.
    """
    compared.refuse_other_kind(request)
    kinds = [metric_kind(name) for name in request.measures]
    asked = [kind for kind in kinds if request.asks(kind.name)]
    for kind in asked:
        if OWN_TEACHER in kind.needs:
            compared.need_teacher(kind.name)
    if any(STUDENT not in kind.needs for kind in kinds):
        compared.need_reference(reference_of(request, compared), request.reference is not None)
    for kind in asked:
        if kind.refuse is not None:
            object_at(kind.refuse)(compared)
    return extractors.of(compared), extractors.metric_extractors_of(compared)


def _add_samples(report: Report, compared: Compared, generation: Generation, candidates: Sequence[Candidate]) -> None:
    """The first pictures of every candidate, of the same noise; of videos some frames of the first ones."""
    places = [] if compared.frames is None else strip_places(compared.frames)
    count = WIDEST_ROW if not places else WIDEST_ROW // STRIP
    titles = [spec.title for spec in generation.specs[:count]]
    if places:
        titles = [f"{title}: frame {place + 1}" for title in titles for place in places]
    for candidate in candidates:
        title = candidate.title
        if title not in report.samples:
            report.sample_titles[title] = titles
            states = next(generation.states(candidate))[:count].to(compared.opened.device)
            shown = compared.opened.decode(states)
            report.samples[title] = (
                [frames[place] for frames in to_videos(shown) for place in places] if places else to_images(shown)
            )
