"""List teachers, and distil students from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..console import SILENT
from ..presets.listing import TeacherRow, teacher_rows
from .arguments import Device, FileOrFolder, Keys, Sharing, Source, Speaker, Switch
from .calls import public


@runtime_checkable
class HasNumbers(Protocol):
    """An array or a number of numpy or torch."""

    def tolist(self) -> object: ...


@public()
def list_teachers() -> list[TeacherRow]:
    """The teachers that presets are shipped for, as `piflow distill --list-teachers` shows them.

    Returns a row each, with the keys ``name``, ``family``, ``policy``, ``nfe``, ``memory`` and ``licence``.

    >>> import piflow_cli as piflow
    >>> [row["nfe"] for row in piflow.list_teachers() if row["name"] == "digits"]
    [1]
    """
    return teacher_rows()


@public()
def distill(
    teacher: Source,
    output: FileOrFolder | None = None,
    *,
    config: FileOrFolder | None = None,
    settings: Keys | None = None,
    device: Device = "auto",
    parallel: Sharing = "auto",
    resume: Switch = True,
    fork: FileOrFolder | None = None,
    console: Speaker = SILENT,
) -> Path:
    """Distil a teacher into a student that samples in a few network evaluations, as `piflow distill` does.

    Args:
        teacher: a shipped preset, or the path of a preset file.
        output: folder of the run; default: runs/<preset>, with policy and NFE where they are others than the preset's.
        config: a YAML file with some of the preset's keys.
        settings: any key of the preset as ``section.key``, over preset and ``config``; ``data``: a source of pictures,
            labelled or captioned, or of captioned videos.
        device: where to compute: auto, cpu, cuda or cuda:N.
        parallel: how processes hold the weights: ddp, fsdp2 or auto.
        resume: go on from the last checkpoint in the folder; else an earlier run moves out of the way.
        fork: the folder of a run whose weights this one begins with, at iteration 0, in another folder.
        console: takes progress and warnings.

    Returns the folder of the run: its student is what the other functions take, and its ``metrics.jsonl`` has a line
    of JSON for each iteration. Started by torchrun or accelerate, this process is one of the run's.

    Raises:
        UsageError: settings, data or device do not fit, with all faults of the settings; nothing is written.
        RunError: the run diverged, or no checkpoint is whole.
        Interrupted: a signal stopped it; the same call goes on.

    >>> import piflow_cli as piflow
    >>> short = {"optimisation.iterations": 2, "optimisation.batch_size": 16, "policy.nfe": 2}
    >>> run = piflow.distill("digits", "runs/short", settings=short)
    >>> sorted(path.name for path in run.iterdir() if path.is_dir())
    ['adapter', 'checkpoints']
    """
    from ..presets.flags import PICTURES
    from ..presets.places import with_full_paths
    from ..presets.resolve import resolve
    from ..students.naming import run_folder
    from ..training import distill as run

    given = dict(settings or {})
    source = given.pop(PICTURES, None)
    pictures = {} if source is None else {PICTURES: str(source)}
    assignments = [_assignment(key, value) for key, value in given.items()]
    preset = with_full_paths(resolve(teacher, None if config is None else Path(config), assignments, pictures))
    folder = run_folder(preset, teacher) if output is None else Path(output)
    begun = None if fork is None else Path(fork)
    run(preset, output=folder, device=device, resume=resume, console=console, parallel=parallel, fork=begun)
    return folder


def _assignment(key: str, value: object) -> str:
    """A value as `--set` reads it; JSON is YAML too."""
    return f"{key}={json.dumps(value, ensure_ascii=False, default=_plain)}"


def _plain(value: object) -> object:
    """Numbers of numpy and torch as Python's own; all else, like a path, as a text."""
    return value.tolist() if isinstance(value, HasNumbers) else str(value)
