"""A budget of time, held against the 200 iterations of the preset cut off at the same time.

    python tests/benchmarks/budget.py [--budget 60s] [--seeds 0,1,2] [--json FILE]

For each seed `piflow distill --teacher digits` runs twice, in a process of its own each time: with ``--budget``, and as
the preset is, interrupted (Ctrl-C) when so much time has gone. Seconds are wall time from outside, the start of Python
included. Distances are those of digits.py: Frechet distances on raw pixels of 1,797 samples to the data, and to the
teacher's samples of 128 steps. The load of the machine is what the system says before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import machine, write_json
from digits import Ruler

from piflow_cli.console import format_table
from piflow_cli.data.labelled_images import load_images
from piflow_cli.presets.budgets import read_budget
from piflow_cli.sampling.denoise import sample_student
from piflow_cli.students.open import open_student
from piflow_cli.weights.locate import locate

COLUMNS = ("run", "seed", "seconds", "iterations", "batch", "to_data", "to_teacher", "load")
GRACE = 120.0  # seconds to save in, after Ctrl-C


def timed(folder: Path, seed: int, limit: float, *options: str) -> float:
    """Distil into ``folder``, interrupted after ``limit`` seconds; returns the seconds until the process has ended."""
    command = [sys.executable, "-m", "piflow_cli", "distill", "--teacher", "digits", "--quiet"]
    command += ["--set", f"seed={seed}", "--output", str(folder), *options]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=GRACE)
    if process.returncode not in (0, 128 + signal.SIGINT):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started


def row(ruler: Ruler, run: str, seed: int, folder: Path, seconds: float, load: float) -> dict:
    iterations = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    with torch.no_grad():
        student = open_student(folder / "adapter")
        measured = ruler.row(run, 1, sample_student(student, ruler.noise, ruler.conditioning))
    each = iterations[-1]["evaluations"] / len(iterations)
    return {
        "run": run,
        "seed": seed,
        "seconds": round(seconds, 1),
        "iterations": len(iterations),
        "batch": round(each / 5),  # forward, twice backward, two states
        "to_data": measured["to_data"],
        "to_teacher": measured["to_teacher"],
        "load": round(load, 1),
    }


def spread(rows: list[dict], run: str) -> dict:
    """Mean and standard error over seeds."""
    found = {"run": run}
    for name in ("seconds", "to_data", "to_teacher"):
        values = [row[name] for row in rows if row["run"] == run]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        found[name] = {"mean": statistics.fmean(values), "error": error}
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--images", type=int, default=1797, help="first so many of the 1,797 conditions")
    parser.add_argument("--json", type=Path, help="also write the rows, versions and machine here")
    options = parser.parse_args(arguments)
    limit, seeds, rows = read_budget(options.budget).seconds(1), list(map(int, options.seeds.split(","))), []
    with torch.no_grad():
        ruler = Ruler(load_images(locate("preset:digits/images.safetensors")), options.images)
    kinds = {"budget": (5 * limit, ["--budget", options.budget]), "200 iterations, cut off": (limit, [])}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in seeds:
            for number, (run, (most, more)) in enumerate(kinds.items()):
                folder = Path(scratch) / f"{seed}-{number}"
                seconds = timed(folder, seed, most, *more)
                rows.append(row(ruler, run, seed, folder, seconds, os.getloadavg()[0]))
                print(json.dumps(rows[-1]), flush=True)
    print(format_table(rows, COLUMNS))
    found = [spread(rows, run) for run in kinds]
    if options.json is not None:
        facts = {**machine(torch.device("cpu")), "cores": os.cpu_count(), "budget": options.budget}
        write_json(options.json, {**facts, "images": options.images, "rows": rows, "means": found})


if __name__ == "__main__":
    main()
