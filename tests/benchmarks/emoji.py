"""How close emoji students come to the data and to their teacher, beside the teacher at few steps.

    python tests/benchmarks/emoji.py --work WORK --runs RUNS [--json FILE] [--students gm-4,dx-1,...] [--seeds 0,1,2]

WORK is that of `python -m piflow_cli.embedded.emoji --work WORK --stage data`: it holds the pictures, which piflow does
not ship. Students are distilled by `piflow distill --teacher emoji` with the preset's settings, one for each seed, and
measured by `piflow eval`. Both leave what they made in RUNS, and a program that was stopped goes on.

Every row is of two pictures for every fourth shipped prompt, from the same noise. `to_data` and `to_teacher` are
Frechet distances of the features of EfficientNet-Lite0: to the pictures of all shipped prompts, and to the teacher's
50 steps. `pixels` is that of raw pixels in [0, 1] to the same pictures. Squared error (of latents) and distance by
SqueezeNet are to those 50 steps, picture by picture. Diversity is that of two pictures of a prompt, over the
teacher's. The row `pictures` is what a perfect model of the other prompts would score: pictures of the prompts asked,
against those of all others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from common import machine, write_json
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.utils import save_image

from piflow_cli.console import format_table
from piflow_cli.embedded.emoji.data import load_captions, load_pictures
from piflow_cli.embedded.emoji.write import prompts
from piflow_cli.evaluation.candidates import picture_folder
from piflow_cli.evaluation.metrics.frechet import frechet_distance_of_samples

TEACHER_STEPS = (1, 2, 4, 8, 16, 50)
STUDENTS = tuple(f"{policy}-{nfe}" for policy in ("gm", "dx", "momentum") for nfe in (1, 2, 4))
EVERY = 4
EXTRACTOR = "efficientnet-lite0"
FIGURES = ("to_data", "pixels", "to_teacher", "squared_error", "squeezenet", "diversity")
NAMES = {"mse": "squared_error", "squeezenet": "squeezenet", "diversity": "diversity"}


def piflow(*arguments: object) -> dict:
    """A command in a process of its own; returns its JSON."""
    command = [sys.executable, "-m", "piflow_cli", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def pictures_of_prompts(data: Path) -> list[tuple[str, Tensor]]:
    """Every shipped prompt and its picture (3, H, W) uint8, in the order of the file."""
    pictures = load_pictures(data)
    place = {captions[0]: number for number, captions in reversed(list(enumerate(load_captions(data))))}
    return [(text, pictures[place[text]]) for text in prompts(data)]


def write_picture(picture: Tensor, file: Path) -> None:
    """Write ``picture`` (3, H, W) uint8 unless it is there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        save_image(picture.float() / 255, file)


def write_pictures(work: Path, runs: Path, every: int) -> None:
    """Write the pictures of all prompts into RUNS/all, of those that are asked and of the others beside it."""
    found = pictures_of_prompts(work / "data")
    for number, (_, picture) in enumerate(found):
        for folder in ("all", "asked" if number % every == 0 else "others"):
            write_picture(picture, runs / folder / f"{number:04d}.png")
    (runs / "prompts.txt").write_text("".join(f"{text}\n" for text, _ in found[::every]), encoding="utf-8")


def distil(name: str, seed: int, runs: Path, iterations: int | None) -> Path:
    """The folder of a student named like gm-1, dx-4 or gm-4+KEY=VALUE, distilled unless it is there."""
    student, *changes = name.split("+")
    policy, nfe = student.rsplit("-", 1)
    folder = runs / f"{name}-seed{seed}"
    if not (folder / "samples.png").exists():
        more = [] if iterations is None else ["--iterations", iterations]
        settings = [part for change in (f"seed={seed}", *changes) for part in ("--set", change)]
        given = ["--policy", policy, "--nfe", nfe, *settings, *more]
        piflow("distill", "--teacher", "emoji", *given, "--output", folder, "--quiet")
    return folder


def measure(students: Sequence[Path], runs: Path, options: Sequence[object]) -> list[dict]:
    """The rows of the teacher at its steps and of ``students``, one for each."""
    common = ["--prompts", runs / "prompts.txt", "--cache", runs / "cache", "--batch-size", 64, *options]
    common += ["--extractor", EXTRACTOR, "--teacher-steps", ",".join(map(str, TEACHER_STEPS))]
    asked = {runs / "all": "fid", "teacher": "fid,alignment,squeezenet,diversity"}
    rows: dict[tuple[str, int], dict] = defaultdict(dict)
    for reference, metrics in asked.items():
        found = piflow(
            "eval",
            *students,
            *common,
            "--reference",
            reference,
            "--metrics",
            metrics,
            "--output",
            runs / "report",
            "--overwrite",
            *(["--save-images"] if reference != "teacher" else []),
        )
        if reference != "teacher":
            data = pixels(runs / "all")
            for one in found["results"]:
                drawn = pixels(runs / "report" / "images" / picture_folder(one["model"], one["nfe"]))
                rows[one["model"], one["nfe"]]["pixels"] = frechet_distance_of_samples(drawn, data)
        for one in found["results"]:
            if (figure := figure_of(one, "teacher" if reference == "teacher" else "data")) is not None:
                rows[one["model"], one["nfe"]][figure] = one["value"]
    return [{"model": model, "evaluations": nfe, **figures} for (model, nfe), figures in rows.items()]


def pixels(folder: Path) -> Tensor:
    """The pictures in a folder as rows (N, 3 H W) in [0, 1], float64."""
    files = sorted(folder.rglob("*.png"))
    return torch.stack([decode_image(str(file), ImageReadMode.RGB).flatten().double() / 255 for file in files])


def figure_of(one: dict, reference: str) -> str | None:
    """The column of one of the results of `piflow eval`; None: it has none."""
    return f"to_{reference}" if one["metric"] == "fid" else NAMES.get(one["metric"])


def split(runs: Path) -> dict:
    """The row of the pictures themselves."""
    given = ["--images", runs / "asked", "--reference", runs / "others", "--cache", runs / "cache", "--metrics", "fid"]
    found = piflow("eval", *given, "--extractor", EXTRACTOR, "--output", runs / "report-pictures", "--overwrite")
    figures = {figure_of(one, "data"): one["value"] for one in found["results"]}
    figures["pixels"] = frechet_distance_of_samples(pixels(runs / "asked"), pixels(runs / "others"))
    return {"model": "pictures", "evaluations": None, **figures}


def over_seeds(rows: Sequence[dict]) -> list[dict]:
    """One row for all seeds of a student: means, and standard deviations where there are two seeds or more."""
    groups: dict[tuple[str, int], list[dict]] = defaultdict(list)
    for row in rows:
        groups[row["model"].split("-seed")[0], row["evaluations"]].append(row)
    found = []
    for (model, evaluations), group in groups.items():
        row = {"model": model, "evaluations": evaluations, "seeds": len(group)}
        for figure in FIGURES:
            values = [one[figure] for one in group if figure in one]
            if values:
                row[figure] = statistics.fmean(values)
            if len(values) > 1:
                row[f"{figure}_sd"] = statistics.stdev(values)
        found.append(row)
    return found


def verdicts(rows: Sequence[dict]) -> dict[str, float]:
    """What the page claims of the GM student of four evaluations."""
    of = {(row["model"], row["evaluations"]): row for row in rows}
    fine, few, student = of["teacher", TEACHER_STEPS[-1]], of["teacher", 4], of.get(("gm-4", 4))
    if student is None:
        return {}
    return {
        "student's distance to the data over the teacher's 50 steps'": student["to_data"] / fine["to_data"],
        "times nearer to the teacher's 50 steps than its own 4 steps": few["to_teacher"] / student["to_teacher"],
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the program that makes the teacher")
    parser.add_argument("--runs", type=Path, required=True, help="folder for students and whatever else is made")
    parser.add_argument("--json", type=Path, help="also write the rows, versions and machine here")
    parser.add_argument(
        "--students", default=",".join(STUDENTS), help="names with commas between: policy-nfe, +KEY=VALUE"
    )
    parser.add_argument("--jobs", type=int, default=1, help="students that are trained beside each other")
    parser.add_argument("--seeds", default="0", help="of the trainings, with commas between")
    parser.add_argument("--more", default="", help="further students, NAME:SEED with commas between")
    parser.add_argument("--iterations", type=int, help="of every student; default: the preset's")
    parser.add_argument("--every", type=int, default=EVERY, help="ask every so many of the shipped prompts")
    options = parser.parse_args(arguments)
    names = [name for name in options.students.split(",") if name]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    asked = [(name, seed) for seed in seeds for name in names]
    asked += [(name, int(seed)) for name, _, seed in (one.rpartition(":") for one in options.more.split(",") if one)]
    write_pictures(options.work, options.runs, options.every)
    with ThreadPoolExecutor(options.jobs) as pool:
        made = [pool.submit(distil, name, seed, options.runs, options.iterations) for name, seed in asked]
        students = [one.result() for one in made]
    each = [split(options.runs), *measure(students, options.runs, ["--seeds", "0-1"])]
    rows = over_seeds(each)
    columns = ("model", "evaluations", "seeds", *FIGURES)
    print(format_table([{**dict.fromkeys(columns), **row} for row in rows], columns))
    found = verdicts(rows)
    print(format_table([{"claim": name, "measured": value} for name, value in found.items()], ("claim", "measured")))
    if options.json is not None:
        settings = {
            "students": [f"{name}:{seed}" for name, seed in asked],
            "iterations": options.iterations,
            "every": options.every,
        }
        content = {
            "benchmark": "emoji",
            **machine(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            **settings,
            "rows": rows,
            "each": each,
        }
        write_json(options.json, {**content, "verdicts": found})


if __name__ == "__main__":
    main()
