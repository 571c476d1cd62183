"""Run cases on a GPU that is not there, and say what a GPU would not do, or would wait for.

    python tests/fake_cuda/check.py [PRESET ...] [--full] [--planted] [--json FILE]

Without names all cases run, with one block of each kind, as wide as ever; ``--full`` takes the networks as they are.
``--planted`` runs the first of them once under each fault of :mod:`faults` instead. It writes a JSON object a case:
what was wrong, the waits, copies and launches, and the kernels that were compiled; in FILE it replaces that of the same
case. Seconds are those of a core. It ends with 1 where anything was wrong. A sampling evaluates its network twice on
inputs of one kind, and takes what the second evaluation has answered for the others.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import no_gpu
import torch
from cases import ALLOWED, CASES, COPIES, EXTRACTORS, FETCHES, PIPELINES, Case
from kept import keep
from torch._subclasses.fake_tensor import FakeTensorMode

if TYPE_CHECKING:
    from launches import Seen

PIPELINE_NFE = 4


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("presets", nargs="*")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if "libcuda.so.1" not in os.environ.get("LD_PRELOAD", ""):
        made = no_gpu.library(Path(tempfile.mkdtemp()))
        os.execve(sys.executable, [sys.executable, *sys.argv], no_gpu.environment(made))
    import diffusers.loaders.peft  # noqa: F401  before its imports would make fake tensors

    cases, failed = [case for case in CASES if not options.presets or case.preset in options.presets], False
    for case, fault in planted(cases[0]) if options.planted else ((case, nullcontext()) for case in cases):
        with fault:
            report = check(case, small=not options.full)
        failed |= bool(report["faults"])
        print(json.dumps(report), flush=True)
        if options.json is not None:
            row = row_of(report, "all" if options.full else "one of each kind")
            keep(options.json, "fake-cuda", [row], "case", [case.name for case in CASES])
    return int(failed)


def planted(case: Case) -> Iterator[tuple[Case, AbstractContextManager]]:
    """The step of a case under each of the faults."""
    from faults import FAULTS

    for name, fault in FAULTS.items():
        yield replace(case, settings=(), nfes=(1,), label=name), fault()


def check(case: Case, *, small: bool) -> dict[str, Any]:
    """What was wrong in a case, in words, and what was counted in each of its works."""
    from accelerate.state import AcceleratorState
    from kernels import Launches
    from launches import CALLS, Seen, beyond
    from sessions import parameters_that_move
    from watching import Watch

    report: dict[str, Any] = {"case": case.name, "faults": [], "works": {}}
    begun = time.process_time()
    AcceleratorState._reset_state(True)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # What it has remembered of copies to the host, torch 2.14 cannot repeat inside of another copy.
    mode.cache_enabled = not case.label
    # A mode holds for the process whether it is inside of a call: a backward on threads of its own, as that of two
    # devices is, would ask in the middle of another thread's, and take a tensor for one of no device.
    one_thread = torch.autograd.set_multithreading_enabled(False)
    with mode, one_thread, parameters_that_move(), Watch(mode) as watch, Launches() as launches:
        seen = Seen(lambda: watch.launched + launches.counts + Counter({CALLS: watch.calls}))
        try:
            for title, work in works_of(case, watch, seen, small=small):
                watch.clear()
                with seen.looking():
                    work()
                report["faults"] += forbidden(title, watch.waits, watch.copies, case)
                report["works"][title] = {"waits": dict(watch.waits), "copies": watch.copies.total()}
            report["launches"] = {name: dict(counted) for name, counted in seen.most.items()}
            report["faults"] += beyond(seen)
        except Exception as error:
            if os.environ.get("PIFLOW_DEBUG") == "1":
                raise
            # Whatever a case raises is what a GPU would raise.
            report["faults"].append(f"{type(error).__name__}: {str(error).strip()[:400]}")
    report["kernels"] = sorted({name for name, *_ in launches.compiled})
    return report | {"seconds": round(time.process_time() - begun, 1)}


def row_of(report: dict[str, Any], blocks: str) -> dict[str, Any]:
    """What is kept of a report on a network of these ``blocks``: waits of works that have any, numbers of launches."""
    from launches import CALLS

    works, launches = report["works"].items(), report.get("launches", {}).items()
    return {
        "case": report["case"],
        "blocks": blocks,
        "faults": report["faults"],
        "waits": {title: work["waits"] for title, work in works if work["waits"]},
        "copies": {title: work["copies"] for title, work in works if work["copies"]},
        "launches": {part: sum(by.values()) - by[CALLS] for part, by in launches},
        "kernels": report["kernels"],
    }


def works_of(case: Case, watch: Any, seen: Seen, *, small: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """A step, its windows without the networks, samplings, and a picture by the stock pipeline where there is one.

    Of the case of extractors: what each of them does.
    """
    from evaluations import those_that_differ
    from extractors import extractions
    from launches import of_pipeline, of_stochastic, of_windows
    from pipelines import picture_of
    from sessions import noise_of, session_of

    from piflow_cli.sampling.denoise import sample_student
    from piflow_cli.teachers.text_to_image import TextToImageFamily
    from piflow_cli.training.loop import train_step

    if case.preset == EXTRACTORS:
        watch.host_is_real = True
        yield from extractions(small)
        return
    session = session_of(case.preset, case.settings, small=small, batch=case.batch, rounds=case.rounds)
    session.iteration, watch.host_is_real = case.iteration, True
    noise, told = noise_of(session)
    evaluate = those_that_differ(session.student.family.call)

    def sampling(nfe: int) -> Callable[[], object]:
        def work() -> None:
            with session.accelerator.autocast(), mock.patch.object(session.student.family, "call", evaluate):
                sample_student(session.average, noise, told, steps=nfe)

        return work

    yield "step", lambda: train_step(session)
    yield "windows", lambda: of_windows(session, seen)
    yield "packed sampling", lambda: of_pipeline(session)
    yield "stochastic sampling", lambda: of_stochastic(session)
    for nfe in case.nfes:
        yield f"sampling of {nfe}", sampling(nfe)
    family = session.student.family
    if isinstance(family, TextToImageFamily) and (case.offload or (case.nfes and case.preset in PIPELINES)):
        yield f"pipeline of {PIPELINE_NFE}", picture_of(session, family, PIPELINE_NFE, case.offload or "none")


def forbidden(title: str, waits: Counter[str], copies: Counter[str], case: Case) -> list[str]:
    """Waits and copies of a work beyond those that are allowed."""
    found, left = [], {wait: wait.times for wait in ALLOWED}
    for place, times in waits.items():
        for wait in ALLOWED:
            if wait.place in place and title.startswith(wait.during):
                times, left[wait] = max(0, times - left[wait]), max(0, left[wait] - times)
        if times:
            found.append(f"{title} waits {times} times for the device: {place}")
    kind = title.split()[0]
    most = COPIES.get(kind, 0) * (case.rounds if kind == "step" else 1)
    counted = {place: times for place, times in copies.items() if not any(fetch in place for fetch in FETCHES)}
    if sum(counted.values()) > most:
        found.append(f"{title} copies {sum(counted.values())} times, {most} allowed: {'; '.join(counted)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
