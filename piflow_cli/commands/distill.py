"""`piflow distill`: resolve the configuration, print the plan, run it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from piflow_cli.presets.schema import Preset

from piflow_cli.commands.distill_options import (
    Assignments,
    BatchSize,
    CacheFolder,
    Components,
    Config,
    DataFree,
    DryRun,
    Evaluations,
    Fork,
    Iterations,
    Kind,
    LearningRate,
    Limit,
    ListTeachers,
    OffloadBase,
    OffloadTextEncoder,
    Output,
    ParallelWay,
    Pictures,
    PrintConfig,
    Progress,
    Prompts,
    Recipe,
    Resume,
    Seed,
    TeacherLoras,
    TimeBudget,
    Tracked,
)
from piflow_cli.commands.options import (
    Base,
    BasePrecision,
    Device,
    Json,
    NumProcesses,
    Quiet,
    Teacher,
    TextColumn,
    examples,
)
from piflow_cli.commands.starting import start
from piflow_cli.console import Console, format_pairs
from piflow_cli.errors import UsageError
from piflow_cli.students.naming import run_folder

EXAMPLES = examples(
    ("piflow distill --teacher digits", "one step, on a CPU"),
    ("piflow distill --teacher digits --dry-run", "the plan, no run"),
    ("piflow distill --teacher digits --policy dx --nfe 2", "another policy, 2 steps"),
    ("piflow distill --teacher digits --set seed=1", "any key of the preset"),
    closing="Ctrl-C stops at the next step; the same command goes on from there.",
)

COLUMNS = ("name", "family", "policy", "nfe", "memory", "licence")


def distill(
    context: typer.Context,
    teacher: Teacher = None,
    list_teachers: ListTeachers = False,
    base: Base = None,
    teacher_lora: TeacherLoras = None,
    device: Device = "auto",
    num_processes: NumProcesses = None,
    parallel: ParallelWay = "auto",
    policy: Kind = None,
    nfe: Evaluations = None,
    components: Components = None,
    prompts: Prompts = None,
    data: Pictures = None,
    text_column: TextColumn = None,
    limit: Limit = None,
    data_free: DataFree = None,
    cache: CacheFolder = None,
    base_precision: BasePrecision = None,
    offload_base: OffloadBase = None,
    offload_text_encoder: OffloadTextEncoder = None,
    iterations: Iterations = None,
    budget: TimeBudget = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    seed: Seed = None,
    recipe: Recipe = None,
    config: Config = None,
    assignments: Assignments = None,
    output: Output = None,
    tracker: Tracked = None,
    resume: Resume = True,
    fork: Fork = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    progress: Progress = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distil a teacher into a student that samples in a few network evaluations.

    Precedence: option, then --set, then --config, then the preset.
    """
    began = time.monotonic()
    console = Console(json=json, quiet=quiet, progress=progress)
    if list_teachers:
        return _list_teachers(context, console)
    _refuse_both(print_config, dry_run)
    with _held(not (print_config or dry_run)):
        preset = _resolved(teacher, config, assignments, context.params)
        if print_config:
            return _print_config(preset, console)
        folder = _checked_folder(preset, str(teacher), output, resume, fork)
        processes = _processes(num_processes, device)
        with console.listening():
            if dry_run:
                return _plan(preset, folder, device, processes, parallel, resume, fork, console)
            run = partial(_run, preset, folder, device, parallel, resume, fork, console, began)
            start(processes, context, run, preemptible=True)


def _held(wanted: bool) -> AbstractContextManager[None]:
    """Let the signals that take a machine away wait: torch takes seconds to import."""
    from piflow_cli.system.preemption import held

    return held(wanted)


def _processes(num_processes: int | None, device: str) -> int:
    from piflow_cli.system.processes import process_count

    return process_count(num_processes, device)


def _refuse_both(print_config: bool, dry_run: bool) -> None:
    if print_config and dry_run:
        raise UsageError("--print-config and --dry-run both print and stop", "give one of them")


def _list_teachers(context: typer.Context, console: Console) -> None:
    from piflow_cli.presets.listing import teacher_rows

    _refuse_others(context)
    console.table(teacher_rows(), COLUMNS)


def _resolved(
    teacher: str | None, config: Path | None, assignments: list[str] | None, options: Mapping[str, Any]
) -> Preset:
    """The preset with all that the command line changes, paths in full."""
    if teacher is None:
        raise UsageError("no teacher given", "type --teacher NAME; piflow distill --list-teachers shows the names")
    from piflow_cli.presets.places import with_full_paths
    from piflow_cli.presets.resolve import resolve

    given = assignments if assignments is not None else []
    return with_full_paths(resolve(teacher, config, given, _settings(options)))


def _settings(options: Mapping[str, Any]) -> dict[str, object]:
    """The settings of the preset that the command's ``options`` give, by key; None is not given."""
    from piflow_cli.presets.flags import OPTIONS

    # An option that may come again is an empty list where it did not come.
    given = {key: value for name, key in OPTIONS.items() if (value := options[name]) not in ([], ())}
    return {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}


def _print_config(preset: Preset, console: Console) -> None:
    from piflow_cli.presets.resolve import to_dict
    from piflow_cli.presets.yaml_files import write_yaml

    data = to_dict(preset)
    console.result(data, write_yaml(data).rstrip("\n"))


def _refuse_others(context: typer.Context) -> None:
    """Raise UsageError where the list of teachers is asked for together with what makes a run."""
    words = ("list_teachers", "json", "quiet")
    options = {option.name: option.opts[0] for option in context.command.params if option.name not in words}
    given = [
        option for name, option in options.items() if str(context.get_parameter_source(name)).endswith("COMMANDLINE")
    ]
    if given:
        raise UsageError(
            f"--list-teachers lists and stops, and takes no {', '.join(given)}",
            "type piflow distill --list-teachers alone",
        )


def _checked_folder(preset: Preset, teacher: str, output: Path | None, resume: bool, fork: Path | None) -> Path:
    """The folder of the run: ``output``, or that of its name.

    Raises UsageError for what is missing or in the way, before anything that takes seconds to import.
    """
    from piflow_cli.data.places import require_data
    from piflow_cli.presets.choices import NO_TRACKER
    from piflow_cli.presets.lora_texts import split_lora
    from piflow_cli.ranks import is_first
    from piflow_cli.students.lora_files import TEACHER_OPTION, check_files
    from piflow_cli.students.run_checkpoints import checkpoints, require_checkpoint
    from piflow_cli.students.runs import RunFolder
    from piflow_cli.system.files import check_writable
    from piflow_cli.system.folders import with_a_name
    from piflow_cli.weights.locate import require_base

    if preset.output.tracker != NO_TRACKER:
        from piflow_cli.system.trackers import tracker_of

        tracker_of(preset.output.tracker)
    folder = run_folder(preset, teacher) if output is None else with_a_name(output)
    require_base(preset.teacher.base)
    check_files([split_lora(text) for text in preset.teacher.loras], TEACHER_OPTION)
    require_data(preset)
    if fork is not None and not (resume and checkpoints(RunFolder(folder).checkpoints)):
        require_checkpoint(fork, RunFolder(fork).checkpoints)
    # The first of several processes may have begun to write.
    if is_first():
        check_writable(folder)
        if resume:
            RunFolder(folder).check(preset)
    return folder


def _plan(
    preset: Preset,
    folder: Path,
    device: str,
    processes: int,
    parallel: str,
    resume: bool,
    fork: Path | None,
    console: Console,
) -> None:
    from piflow_cli.students.runs import RunFolder
    from piflow_cli.training import describe
    from piflow_cli.training.forking import source_of
    from piflow_cli.training.waiting import step_timeout

    step_timeout()
    source_of(RunFolder(folder), preset, fork, resume, console)
    plan = describe(preset, folder, device, processes, parallel)
    console.result(plan, format_pairs(plan))


def _run(
    preset: Preset,
    folder: Path,
    device: str,
    parallel: str,
    resume: bool,
    fork: Path | None,
    console: Console,
    began: float,
) -> None:
    from piflow_cli.streams import unbreakable_out
    from piflow_cli.system.processes import command_began
    from piflow_cli.training import distill as run_distillation

    # A run of days goes on when nobody reads its output any more.
    with unbreakable_out():
        result = run_distillation(
            preset,
            output=folder,
            device=device,
            resume=resume,
            console=console,
            parallel=parallel,
            fork=fork,
            began=command_began(began),
        )
        console.result(result, format_pairs(result))
        console.say(f"Next: piflow sample {quote(str(folder))}")
