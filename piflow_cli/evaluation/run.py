"""`piflow eval` from a request to a report."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from ..console import format_pairs
from ..errors import UsageError
from ..reports.images import to_images
from ..sampling.text import WIDEST_ROW
from ..students.naming import student_names
from ..system.devices import keep_freed_memory
from ..system.files import cache_folder, check_writable
from ..system.processes import Processes, open_processes
from ..system.versions import collect
from .candidates import TEACHER, Subject
from .chosen_extractors import Eyes, reference_of
from .compared import Bench, open_bench
from .folder_run import FolderRequest, evaluate_folder
from .generate import Generation
from .measuring import Measuring, group_numbers
from .report import Report, write_report
from .report_folder import check_report_folder
from .request import OF_STUDENTS, EvalRequest
from .rows import Row
from .store import Store

if TYPE_CHECKING:
    from ..console import Console

CLASS_BATCH, TEXT_BATCH = 128, 1
NEED_TEACHER = ("alignment", "diversity", "trajectory")
FOLDER_BATCH = 64
# What shapes pictures or numbers and stands in no row; the report tells those that were given.
SETTINGS = ("labels", "prompts_from", "text_column", "height", "width", "substeps", "temperature", "teacher", "base", "subfolder", "batch_size")


def evaluate(request: EvalRequest, console: Console) -> tuple[dict, str]:
    """Measure what ``request`` names and write the report; returns it for --json, and as text.

    Raises:
        UsageError: what is asked does not go together or is not there; nothing has been generated then.
        RunError: weights or packages are missing, or files are damaged.
    """
    request.check()
    _check_folders(request)
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
    files = write_report(report, request.output) if measured else {}
    written = {**files, **saved, "seconds": round(time.perf_counter() - started, 1)}
    told = format_pairs(written)
    return {**report.as_dict(), **written}, f"{report.text()}\n\n{told}" if measured else told


def _check_folders(request: EvalRequest) -> None:
    """Refuse folders that nothing can be written to, or not without loss, before anything is computed."""
    if request.save_statistics is not None:
        check_writable(request.save_statistics.parent, "--save-statistics FILE")
    if request.measured:
        check_writable(request.output)
        check_report_folder(request.output)
        cache_folder(request.cache)


def _title(request: EvalRequest) -> str:
    return f"{request.images} against {request.reference}" if request.images is not None else "piflow eval: " + ", ".join(student_names(request.students, request.subfolder))


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


def _folder_rows(request: EvalRequest, processes: Processes, report: Report, console: Console) -> None:
    """One process is enough where nothing is generated."""
    if not processes.first:
        return
    for extractor in request.extractors or ("inception",):
        folder = FolderRequest(
            images=request.images, reference=request.reference, extractor=extractor, metrics=request.measures if request.protocol == "quick" else request.metrics,
            count=request.num_images, batch_size=FOLDER_BATCH if request.batch_size is None else request.batch_size,
            inception_weights=request.inception_weights, trust_weights=request.trust_weights, cache=request.cache,
            save_to=request.save_statistics,
        )  # fmt: skip
        for found in evaluate_folder(folder, processes.device, console):
            report.rows.append(
                Row(
                    str(request.images), "images", "", None, found.metric, found.value, found.images, low=found.low, high=found.high,
                    extractor=found.extractor, resize=found.resize, reference=found.reference,
                    reference_images=found.reference_images, note=found.note,
                )  # fmt: skip
            )


def _student_rows(request: EvalRequest, processes: Processes, report: Report, console: Console) -> None:
    """One student after another, so that one is in memory at a time; a teacher that several share gets its rows once."""
    eyes = Eyes(request, processes.device, console)
    store = Store(request.cache)
    if processes.first:
        store.forget_unused()
    told: set[str] = set()
    teachers: dict[str, str] = {}
    for path, name in zip(request.students, student_names(request.students, request.subfolder)):
        bench = open_bench(path, name, request, processes.device, console)
        _bench_rows(request, named_apart(bench, teachers), eyes, store, processes, report, told, console)
        # The next student is opened when nothing of this one is left, nor of its base.
        del bench
        gc.collect()


def _bench_rows(
    request: EvalRequest, bench: Bench, eyes: Eyes, store: Store, processes: Processes, report: Report, told: set[str], console: Console
) -> None:
    """One student's rows and samples; ``told``: the teachers that have theirs."""
    _check(request, bench)
    looking, reader = eyes.of(bench), eyes.reader_of(bench)
    generation = Generation(
        bench.scene, bench.shots, {look.tag: look for look in [*looking, *([reader] if reader is not None else [])]}, store, processes,
        batch_size=(TEXT_BATCH if bench.text else CLASS_BATCH) if request.batch_size is None else request.batch_size,
        images=request.output / "images" if request.save_images else None,
    )  # fmt: skip
    fine = _fine(request, bench)
    if fine is not None:
        generation.run(fine, console, aligned=reference_of(request, bench) != TEACHER)
    for subject in [*bench.teachers, *bench.students]:
        generation.run(subject, console)
    if not processes.first:
        return
    beside = [subject for subject in bench.teachers if str(subject.identity) not in told]
    told.update(str(subject.identity) for subject in beside)
    Measuring(request, bench, generation, eyes, looking, reader, [*beside, *bench.students], report).run(console)
    _add_samples(report, bench, generation, [*([fine] if fine is not None else []), *bench.students, *bench.teachers])


def named_apart(bench: Bench, names: dict[str, str]) -> Bench:
    """``bench`` with its teacher called by a name of its own: that of its preset where it is not the first, and numbered where
    several have one preset's name. ``names`` holds those that are given, by the identity of the fine solution.
    """
    if bench.fine is None:
        return bench
    name = names.get(str(bench.fine.identity))
    if name is None:
        plain = f"{TEACHER} of {bench.scene.student.facts.teacher}" if names else TEACHER
        numbered = (plain if number == 1 else f"{plain} ({number})" for number in count(1))
        names[str(bench.fine.identity)] = name = next(free for free in numbered if free not in names.values())
    return replace(bench, fine=replace(bench.fine, name=name), teachers=tuple(replace(subject, name=name) for subject in bench.teachers))


def _fine(request: EvalRequest, bench: Bench) -> Subject | None:
    """The teacher's fine solution where something is compared with it."""
    compared = any(name in request.measures for name in ("alignment", "diversity"))
    return bench.fine if compared or reference_of(request, bench) == TEACHER else None


def _check(request: EvalRequest, bench: Bench) -> None:
    """Refuse what this student cannot be asked, before anything is generated."""
    for metric in NEED_TEACHER:
        if request.asks(metric):
            bench.need_teacher(f"--metrics {metric}")
    if reference_of(request, bench) == TEACHER and any(name not in OF_STUDENTS for name in request.measures):
        bench.need_teacher("--reference teacher")
    groups = group_numbers(bench.shots)
    if request.asks("diversity") and Counter(groups.tolist()).most_common(1)[0][1] < 2:
        raise UsageError("--metrics diversity: no label or prompt comes twice, so no two pictures can be compared", "give it more: --seeds 0-3")


def _add_samples(report: Report, bench: Bench, generation: Generation, subjects: Sequence[Subject]) -> None:
    """The first pictures of every subject, of the same noise."""
    for subject in subjects:
        title = subject.title
        if title not in report.samples:
            states = next(generation.states(subject))[:WIDEST_ROW].to(bench.scene.device)
            report.samples[title] = to_images(bench.scene.decode(states))
