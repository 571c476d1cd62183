"""`piflow eval` on digits: how long it takes, and whether it ranks models as digits.py does.

    python tests/benchmarks/eval_digits.py [--json FILE] [--runs DIR] [--images N] [--fine-steps N]

Against the data and against the teacher, with an empty cache each: first the GM student alone, whose seconds of wall
time are those of the whole command, then both students beside the teacher at 1, 4 and 32 Euler steps. The ranks are of
the Frechet distance on raw pixels. ``--runs`` holds digits-gm and digits-dx, which are distilled there with the
preset's settings where they are missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import machine, write_json

from piflow_cli.console import format_table

POLICIES = ("gm", "dx")
TEACHER_STEPS = "1,4,32"
COLUMNS = ("reference", "seconds", "rank")


def piflow(*arguments: object) -> dict:
    """A command in a process of its own; returns its JSON and, as ``wall``, its seconds."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "piflow_cli", *map(str, arguments), "--json"]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return {**result, "wall": time.perf_counter() - started}


def students_in(runs: Path, iterations: int | None) -> list[Path]:
    folders = [runs / f"digits-{policy}" for policy in POLICIES]
    for policy, folder in zip(POLICIES, folders):
        if not (folder / "adapter").is_dir():
            more = ["--iterations", iterations] if iterations is not None else []
            piflow("distill", "--teacher", "digits", "--policy", policy, "--output", folder, *more)
    return folders


def ranked(results: list[dict]) -> list[dict]:
    """Models by their Frechet distance on raw pixels, the nearest first."""
    rows = [row for row in results if row["metric"] == "fid" and row["extractor"] == "pixels"]
    return sorted(
        ({"model": row["model"], "nfe": row["nfe"], "fid": row["value"]} for row in rows), key=lambda row: row["fid"]
    )


def compare(reference: str, students: list[Path], options: list[object]) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        folders = [
            "--cache",
            Path(scratch) / "cache",
            "--output",
            Path(scratch) / "report",
            "--overwrite",
            "--reference",
            reference,
        ]
        alone = piflow("eval", students[0], *folders, *options)
        both = piflow("eval", *students, "--teacher-steps", TEACHER_STEPS, *folders, *options)
    ranks = ranked(both["results"])
    words = " < ".join(f"{row['model']} {row['nfe']}: {row['fid']:.3g}" for row in ranks)
    return {"reference": reference, "seconds": alone["wall"], "rank": words, "ranks": ranks, "results": both["results"]}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows, versions and machine here")
    parser.add_argument("--runs", type=Path, help="where the two students are, or are distilled to")
    parser.add_argument("--iterations", type=int, help="of students that are distilled; default: the preset's")
    parser.add_argument("--images", type=int, help="default: as many as the data have")
    parser.add_argument("--fine-steps", type=int, help="of the teacher's fine solution; default: that of piflow eval")
    options = parser.parse_args(arguments)
    given = {"--num-images": options.images, "--fine-steps": options.fine_steps}
    more = [part for name, value in given.items() if value is not None for part in (name, value)]
    with tempfile.TemporaryDirectory() as scratch:
        students = students_in(Path(scratch) if options.runs is None else options.runs, options.iterations)
        rows = [compare(reference, students, more) for reference in ("data", "teacher")]
    print(format_table(rows, COLUMNS))
    if options.json is not None:
        write_json(options.json, {"benchmark": "eval_digits", **machine(torch.device("cpu")), "results": rows})


if __name__ == "__main__":
    main()
