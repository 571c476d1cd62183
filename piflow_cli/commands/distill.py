"""`piflow distill`: resolve the configuration, print the plan, run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

if TYPE_CHECKING:
    from piflow_cli.presets import Preset

from piflow_cli.commands.options import (
    DATA,
    MEMORY,
    MODEL,
    OPTIMISATION,
    OUTPUT,
    POLICY,
    PRESET,
    Base,
    Device,
    Json,
    Quiet,
    Teacher,
    examples,
    setting,
    switch,
)
from piflow_cli.console import Console, format_pairs
from piflow_cli.errors import UsageError

EXAMPLES = examples(
    ("piflow distill --teacher digits", "one step, on a CPU"),
    ("piflow distill --teacher digits --dry-run", "the plan, no run"),
    ("piflow distill --teacher digits --policy dx --nfe 2", "another policy, 2 steps"),
    ("piflow distill --teacher digits --set seed=1", "any key of the preset"),
    closing="Ctrl-C stops at the next step; the same command goes on from there.",
)

COLUMNS = ("name", "family", "policy", "nfe", "memory", "licence")


def distill(
    teacher: Teacher = None,
    list_teachers: Annotated[bool, switch("--list-teachers", "List the known teachers and stop.", MODEL)] = False,
    base: Base = None,
    device: Device = "auto",
    policy: Annotated[Literal["gm", "dx", "dx-poly"] | None, setting("--policy", "Kind of policy.", POLICY)] = None,
    nfe: Annotated[int | None, setting("--nfe", "Network evaluations per image.", POLICY, "N")] = None,
    components: Annotated[
        int | None,
        setting("--components", "Mixture components (gm), grid points (dx) or terms (dx-poly).", POLICY, "N"),
    ] = None,
    prompts: Annotated[
        str | None,
        setting("--prompts", "Prompts: a .txt, .jsonl, .csv or .parquet file, or a Hub dataset.", DATA, "SOURCE"),
    ] = None,
    data: Annotated[
        str | None,
        setting("--data", "Pictures with captions: a folder, .tar shards or a Hub dataset.", DATA, "SOURCE"),
    ] = None,
    data_free: Annotated[
        bool | None,
        switch("--data-free/--no-data-free", "Start at noise alone (default with --prompts), or at noised data.", DATA),
    ] = None,
    cache: Annotated[
        Path | None, setting("--cache", "Folder of embeddings and latents; default: ~/.cache/piflow.", DATA, "DIR")
    ] = None,
    base_precision: Annotated[
        Literal["fp32", "bf16", "fp8", "int8", "nf4"] | None,
        setting("--base-precision", "Of the frozen base; int8 and nf4 need CUDA and bitsandbytes.", MEMORY),
    ] = None,
    offload_base: Annotated[
        bool | None,
        switch("--offload-base/--no-offload-base", "Keep the frozen base in the CPU's memory; slow.", MEMORY),
    ] = None,
    iterations: Annotated[int | None, setting("--iterations", "Optimiser steps.", OPTIMISATION, "N")] = None,
    batch_size: Annotated[
        int | None, setting("--batch-size", "Global batch, over all devices.", OPTIMISATION, "N")
    ] = None,
    learning_rate: Annotated[
        float | None, setting("--learning-rate", "Peak rate, after the warm-up.", OPTIMISATION, "RATE")
    ] = None,
    seed: Annotated[int | None, setting("--seed", "Of noise, data order and dropout.", OPTIMISATION, "N")] = None,
    config: Annotated[
        Path | None, setting("--config", "YAML file with some of the preset's keys.", PRESET, "FILE")
    ] = None,
    assignments: Annotated[
        list[str] | None, setting("--set", "Any key of the preset; repeatable.", PRESET, "SECTION.KEY=VALUE")
    ] = None,
    output: Annotated[
        Path | None, setting("--output", "Folder of the run; default: runs/<preset>.", OUTPUT, "DIR")
    ] = None,
    resume: Annotated[
        bool, switch("--resume/--no-resume", "Go on from the last checkpoint in the folder (default).", OUTPUT)
    ] = True,
    dry_run: Annotated[bool, switch("--dry-run", "Print the plan and stop.", OUTPUT)] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distil a teacher into a student that samples in a few network evaluations.

    Precedence: option, then --set, then --config, then the preset.
    """
    console = Console(json=json, quiet=quiet)
    if list_teachers:
        console.table(_teachers(), COLUMNS)
        return
    if teacher is None:
        raise UsageError("no teacher given", "type --teacher NAME; piflow distill --list-teachers shows the names")
    from piflow_cli.presets import resolve

    flags = {
        "teacher.base": base,
        "policy.kind": policy,
        "policy.nfe": nfe,
        "policy.components": components,
        "data.prompts": prompts,
        "data.captioned": data,
        "data.cache": None if cache is None else str(cache),
        "imitation.data_free": data_free,
        "adapter.base_precision": base_precision,
        "adapter.offload_base": offload_base,
        "optimisation.iterations": iterations,
        "optimisation.batch_size": batch_size,
        "optimisation.learning_rate": learning_rate,
        "seed": seed,
    }
    preset = resolve(teacher, config, assignments if assignments is not None else [], flags)
    folder = Path("runs") / preset.name if output is None else output
    _run(preset, folder, device, resume, dry_run, console)


def _run(preset: Preset, folder: Path, device: str, resume: bool, dry_run: bool, console: Console) -> None:
    from piflow_cli.training import describe
    from piflow_cli.training import distill as run_distillation

    plan = {**describe(preset, device), "folder": str(folder)}
    if dry_run:
        console.result(plan, format_pairs(plan))
        return
    console.say(format_pairs(plan))
    result = run_distillation(preset, output=folder, device=device, resume=resume, console=console)
    console.result(result, format_pairs(result))
    console.say(f"Next: piflow sample {folder}")


def _teachers() -> list[dict[str, object]]:
    from piflow_cli.presets import available, load

    return [
        {
            "name": name,
            "family": preset.teacher.family,
            "policy": preset.policy.kind,
            "nfe": preset.policy.nfe,
            "memory": preset.teacher.memory,
            "licence": preset.teacher.license,
        }
        for name, preset in ((name, load(name)) for name in available())
    ]
