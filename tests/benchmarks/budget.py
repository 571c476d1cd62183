"""A budget of time, held against the 200 iterations of the preset cut off at the same time.

    python tests/benchmarks/budget.py [--clock wall|processor] [--budget 60s] [--seeds 0,1,2] [--json FILE]

For each seed `piflow distill --teacher digits` runs twice, in a process of its own each time: with ``--budget``, and as
the preset is, interrupted (Ctrl-C) when so much time has gone. Seconds are those of the whole process, the start of
Python included. ``--clock processor`` counts seconds of the processor in place of wall time, in the plan too: on a
machine that is busy otherwise this is the time that a quiet one with as many threads would take. Distances are Frechet
distances on raw pixels between 1,797 samples, as in digits.py, and the data. The file is written after every seed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from common import machine, write_json

from piflow_cli.console import format_table
from piflow_cli.data.labelled_images import load_images
from piflow_cli.evaluation.extractors.moments import moments
from piflow_cli.evaluation.metrics.frechet import frechet_distance
from piflow_cli.presets.budgets import read_budget
from piflow_cli.sampling.denoise import sample_student, seeded_generators, seeded_noise
from piflow_cli.students.open import open_student
from piflow_cli.weights.locate import locate

COLUMNS = ("run", "seed", "seconds", "iterations", "batch", "to_data", "load")
GRACE = 600.0  # seconds to save in, after Ctrl-C
EACH = 5  # evaluations for a sample: forward, twice backward, two states
CHILD = "--as-child"


def child(limit: float, arguments: list[str]) -> int:
    """Run piflow by the processor's clock; after ``limit`` of its seconds, 0 being never, comes Ctrl-C."""
    from piflow_cli.app import main as piflow
    from piflow_cli.commands import distill
    from piflow_cli.training import run, spending

    # The clock has run since this process began.
    distill.time = SimpleNamespace(monotonic=lambda: 0.0)
    run.now = spending.now = time.process_time
    signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    if limit:
        signal.setitimer(signal.ITIMER_PROF, max(0.1, limit - time.process_time()))
    return piflow(arguments)


def timed(folder: Path, seed: int, limit: float, processor: bool, *options: str) -> float:
    """Distil into ``folder``, interrupted after ``limit`` seconds (0: never); the seconds until the process ended."""
    told = ["distill", "--teacher", "digits", "--quiet", "--set", f"seed={seed}", "--output", str(folder), *options]
    program = [__file__, CHILD, str(limit)] if processor else ["-m", "piflow_cli"]
    clock = _of_children if processor else time.perf_counter
    started = clock()
    process = subprocess.Popen([sys.executable, *program, *told], stdout=subprocess.DEVNULL)
    try:
        process.wait(timeout=None if processor or not limit else limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=GRACE)
    if process.returncode not in (0, 128 + signal.SIGINT):
        raise SystemExit(f"piflow {' '.join(told)} ended with {process.returncode}")
    return clock() - started


def _of_children() -> float:
    """Seconds of the processor that all ended processes of this one have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ruler(images: int) -> Callable[[Path], float]:
    """What measures the student of a run: the Frechet distance to all data of samples of the first labels."""
    pictures, labels = load_images(locate("preset:digits/images.safetensors"))
    data = moments(pictures.flatten(1))
    noise = seeded_noise(seeded_generators(range(images)), (1, 8, 8))

    def measure(run: Path) -> float:
        student = open_student(run / "adapter")
        conditioning = student.family.condition(student.model, labels[:images].tolist())
        with torch.no_grad():
            return frechet_distance(moments(sample_student(student, noise, conditioning).flatten(1)), data)

    return measure


def row(measure: Callable[[Path], float], run: str, seed: int, folder: Path, seconds: float) -> dict:
    iterations = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "run": run,
        "seed": seed,
        "seconds": round(seconds, 1),
        "iterations": len(iterations),
        "batch": round(iterations[-1]["evaluations"] / len(iterations) / EACH),
        "to_data": round(measure(folder), 4),
        "load": round(os.getloadavg()[0], 1),
    }


def spread(rows: list[dict], run: str) -> dict:
    """Mean and standard error over seeds; no error of one."""
    found: dict[str, object] = {"run": run}
    for name in ("seconds", "to_data"):
        values = [row[name] for row in rows if row["run"] == run]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        found[name] = {"mean": statistics.fmean(values), "error": error}
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--images", type=int, default=1797, help="first so many of the 1,797 labels")
    parser.add_argument("--json", type=Path, help="also write the rows, versions and machine here")
    options = parser.parse_args(arguments)
    limit, processor, rows = read_budget(options.budget).seconds(1), options.clock == "processor", []
    measure = ruler(options.images)
    kinds = {"budget": (0.0, ["--budget", options.budget]), "200 iterations, cut off": (limit, [])}
    facts = {**machine(torch.device("cpu")), "cores": os.cpu_count(), "clock": options.clock}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in map(int, options.seeds.split(",")):
            for number, (run, (most, more)) in enumerate(kinds.items()):
                folder = Path(scratch) / f"{seed}-{number}"
                rows.append(row(measure, run, seed, folder, timed(folder, seed, most, processor, *more)))
                print(json.dumps(rows[-1]), flush=True)
            found = {"budget": options.budget, "images": options.images, "rows": rows}
            if options.json is not None:
                write_json(options.json, {**facts, **found, "means": [spread(rows, run) for run in kinds]})
    print(format_table(rows, COLUMNS))


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        sys.exit(child(float(sys.argv[2]), sys.argv[3:]))
    main()
