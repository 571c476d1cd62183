"""The options of `piflow distill` that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from piflow_cli.commands.completions import complete_assignment
from piflow_cli.commands.options import (
    DATA,
    MEMORY,
    MODEL,
    OPTIMISATION,
    OUTPUT,
    POLICY,
    PRESET,
    setting,
    switch,
)
from piflow_cli.core.policies.kinds import ROWS, policy_names
from piflow_cli.presets.choices import RecipeName, TrackerName

ListTeachers = Annotated[bool, switch("--list-teachers", "List the known teachers and stop.", MODEL)]
TeacherLoras = Annotated[
    list[str] | None,
    setting("--teacher-lora", "A LoRA to fuse into the base first; may come again.", MODEL, "PATH[:SCALE]"),
]
ParallelWay = Annotated[
    Literal["auto", "ddp", "fsdp2"],
    setting(
        "--parallel",
        "How processes hold the weights: ddp, all on each; fsdp2, a share on each; auto (default): ddp where it fits.",
        MODEL,
        "HOW",
    ),
]

NAMES, RECIPES = ("|".join(get_args(names)) for names in (TrackerName, RecipeName))

# Policies of other packages are read when they are named: to search for them here would slow --help down.
Kind = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help="Kind of policy.",
        rich_help_panel=POLICY,
        metavar="|".join(ROWS),
        autocompletion=lambda: list(policy_names()),
        show_default=False,
    ),
]
Evaluations = Annotated[int | None, setting("--nfe", "Network evaluations per image.", POLICY, "N")]
Components = Annotated[
    int | None, setting("--components", "Parts of the policy: components, grid points or terms.", POLICY, "N")
]

Prompts = Annotated[
    str | None,
    setting("--prompts", "Prompts: a .txt, .jsonl, .csv or .parquet file, or a Hub dataset.", DATA, "SOURCE"),
]
Pictures = Annotated[
    str | None,
    setting(
        "--data",
        "Pictures or videos with captions, or labelled pictures: a folder, .tar shards or a Hub dataset.",
        DATA,
        "SOURCE",
    ),
]
DataFree = Annotated[
    bool | None,
    switch("--data-free/--no-data-free", "Start from noise alone (default with --prompts), or from noised data.", DATA),
]
Limit = Annotated[
    int | None, setting("--limit", "Use the first N prompts, or pictures with captions, alone.", DATA, "N")
]
CacheFolder = Annotated[
    Path | None, setting("--cache", "Folder of embeddings and latents; default: ~/.cache/piflow.", DATA, "DIR")
]

OffloadBase = Annotated[
    bool | None, switch("--offload-base/--no-offload-base", "Keep the frozen base in the CPU's memory; slow.", MEMORY)
]
OffloadTextEncoder = Annotated[
    bool | None,
    switch("--offload-text-encoder/--no-offload-text-encoder", "Keep text encoders in the CPU's memory; slow.", MEMORY),
]

Iterations = Annotated[int | None, setting("--iterations", "Optimiser steps.", OPTIMISATION, "N")]
TimeBudget = Annotated[
    str | None,
    setting(
        "--budget",
        "Time for all of the run, in place of --iterations: 45s, 30m, 12h, 2d, 40gpu-h.",
        OPTIMISATION,
        "TIME",
    ),
]
BatchSize = Annotated[int | None, setting("--batch-size", "Global batch, over all devices.", OPTIMISATION, "N")]
LearningRate = Annotated[
    float | None, setting("--learning-rate", "Peak rate, after the warm-up.", OPTIMISATION, "RATE")
]
Seed = Annotated[int | None, setting("--seed", "Seed of noise, data order and dropout.", OPTIMISATION, "N")]

Recipe = Annotated[
    RecipeName | None,
    setting("--recipe", "The preset's recipe: as published, or what was measured to be better.", PRESET, RECIPES),
]
Config = Annotated[Path | None, setting("--config", "YAML file with some of the preset's keys.", PRESET, "FILE")]
Assignments = Annotated[
    list[str] | None,
    setting(
        "--set", "Set any key of the preset; may come again.", PRESET, "SECTION.KEY=VALUE", complete=complete_assignment
    ),
]

Output = Annotated[
    Path | None,
    setting(
        "--output",
        "Folder of the run; default: runs/<preset>, -<policy>, -<N>nfe if other than its own.",
        OUTPUT,
        "DIR",
    ),
]
Tracked = Annotated[
    TrackerName | None,
    setting("--tracker", "Tracker that gets settings, curves and pictures too.", OUTPUT, NAMES),
]
Resume = Annotated[
    bool, switch("--resume/--no-resume", "Go on from the last checkpoint in the folder (default).", OUTPUT)
]
Fork = Annotated[
    Path | None,
    setting("--fork", "Begin with the weights of this run, at iteration 0, in another folder.", OUTPUT, "RUN"),
]
Progress = Annotated[
    bool, switch("--progress", "Log progress on stderr as lines; with --json each is an object.", OUTPUT)
]
DryRun = Annotated[bool, switch("--dry-run", "Print the plan and stop.", OUTPUT)]
PrintConfig = Annotated[
    bool, switch("--print-config", "Print the resolved preset as YAML, for --config, and stop.", OUTPUT)
]
