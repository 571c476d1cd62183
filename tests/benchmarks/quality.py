"""What quality a digits student has after so many network evaluations: the table from which a plan says what to expect.

    python tests/benchmarks/quality.py --runs RUNS [--iterations 100,200,400] [--seeds 0,1,2] [--json FILE]

For each length and seed `piflow distill --teacher digits` runs with the cosine schedule that `--budget` takes.
Distances are Frechet distances on raw pixels between 1,797 samples, as in digits.py, and the data. RUNS keeps the runs,
and a program that was stopped goes on. The table that ships is presets/digits/quality.json, whose checksum is in
presets/SHA256SUMS.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from budget import ruler
from common import machine, write_json

from piflow_cli.console import format_table

WHAT = "Fréchet distance to the data"


def distil(folder: Path, iterations: int, seed: int) -> None:
    """Distil into ``folder``, or go on there."""
    settings = ["--set", f"seed={seed}", "--set", "optimisation.schedule=cosine", "--iterations", str(iterations)]
    command = [sys.executable, "-m", "piflow_cli", "distill", "--teacher", "digits", "--output", str(folder)]
    subprocess.run([*command, *settings, "--quiet"], check=True, stdout=subprocess.DEVNULL)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps the runs")
    parser.add_argument("--iterations", default="100,200,400", help="lengths, with commas between")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--images", type=int, default=1797, help="first so many of the 1,797 labels")
    parser.add_argument("--json", type=Path, help="also write the table, versions and machine here")
    options = parser.parse_args(arguments)
    lengths, seeds = ([int(part) for part in text.split(",")] for text in (options.iterations, options.seeds))
    measure, rows = ruler(options.images), []
    for iterations in lengths:
        folders = [options.runs / f"{iterations}-{seed}" for seed in seeds]
        for folder, seed in zip(folders, seeds):
            distil(folder, iterations, seed)
        evaluations = json.loads((folders[0] / "metrics.jsonl").read_text().splitlines()[-1])["evaluations"]
        values = [round(measure(folder), 4) for folder in folders]
        rows.append({"evaluations": evaluations, "iterations": iterations, "values": values})
        print(json.dumps(rows[-1]), flush=True)
    print(format_table(rows, ("iterations", "evaluations", "values")))
    if options.json is not None:
        facts = {**machine(torch.device("cpu")), "images": options.images, "seeds": seeds}
        write_json(options.json, {"what": WHAT, "preset": "digits", "schedule": "cosine", **facts, "rows": rows})


if __name__ == "__main__":
    main()
