"""A run shown in a tracker of experiments, through accelerate: its preset, its rows and its pictures."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError, first_line
from ..presets.choices import NO_TRACKER
from ..presets.resolve import flat, to_dict
from ..students.run_trackers import read_identities, write_identities
from ..students.runs import RunFolder
from ..system.trackers import TRACKERS

if TYPE_CHECKING:
    from accelerate import Accelerator
    from PIL.Image import Image

    from ..console import Console
    from .loop import Session

PROJECT = "piflow"


@contextlib.contextmanager
def tracked(session: Session, run: RunFolder, console: Console) -> Generator[None]:
    """Show what is done meanwhile in the tracker of the preset, in the one run of this folder where it goes on.

    Only the first process has a tracker. Raises RunError where it does not start: it knows no account, or has no
    network.
    """
    name = session.preset.output.tracker
    if name != NO_TRACKER and session.accelerator.is_main_process:
        _start(session, run, name)
    try:
        yield
    finally:
        with _surviving(session.accelerator, console):
            for tracker in session.accelerator.trackers:
                tracker.finish()
        # accelerate would end them again.
        session.accelerator.trackers.clear()


def track_rows(accelerator: Accelerator, rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Show rows of metrics.jsonl, each at its iteration."""
    with _surviving(accelerator, console):
        for row in rows:
            accelerator.log(_numbers(row), step=row["iteration"])


def track_picture(accelerator: Accelerator, name: str, path: Path, iteration: int, console: Console) -> None:
    """Show a picture that the run has drawn."""
    from PIL import Image

    with _surviving(accelerator, console):
        for tracker in accelerator.trackers:
            with Image.open(path) as picture:
                SHOW[tracker.name](tracker, name, picture.convert("RGB"), iteration)


def _start(session: Session, run: RunFolder, name: str) -> None:
    known = read_identities(run.path)
    own, module = known.get(name), TRACKERS[name].module
    options = _options(name, run, own, session.iteration)
    preset = None if name in known else _settings(to_dict(session.preset))
    try:
        with _unasked():
            session.accelerator.init_trackers(PROJECT, preset, {module: options})
            if not session.accelerator.trackers:
                raise RuntimeError("accelerate does not take the version of it that is installed")
            given = own if own is not None else _identity(name, options, session.accelerator.trackers[0])
    except Exception as error:
        # Each tracker has errors of its own.
        login = TRACKERS[name].login
        raise RunError(
            f"the tracker {name} does not start: {first_line(error)}",
            f"{login}, or --tracker none" if login else "--tracker none",
        ) from error
    write_identities(run.path, {**known, name: given})


def _options(name: str, run: RunFolder, own: str | None, iteration: int) -> dict[str, Any]:
    """What the tracker is told so that it goes on with its run ``own``, or begins one that it can go on with."""
    title, made = run.path.resolve().name, uuid.uuid4().hex if own is None else own
    options: dict[str, dict[str, Any]] = {
        # Events after the checkpoint come again.
        "tensorboard": {"purge_step": iteration + 1} if iteration else {},
        "wandb": {"dir": str(run.path), "name": title, "id": made, "resume": "allow"},
        # It knows its runs by name.
        "trackio": {"name": made if own is not None else f"{title}-{made[:8]}", "resume": "allow"},
        "mlflow": {"run_name": title} if own is None else {"run_id": own},
        "aim": {} if own is None else {"run_hash": own},
        "comet": {"experiment_key": made, "mode": "get_or_create"},
        "swanlab": {"name": title, "id": made, "resume": "allow"},
    }
    return options[name]


def _identity(name: str, options: Mapping[str, Any], tracker: Any) -> str:
    """By what the tracker knows its new run: what it was told, or what it has chosen."""
    chosen: dict[str, Callable[[], str]] = {
        "tensorboard": lambda: PROJECT,
        "trackio": lambda: options["name"],
        "mlflow": lambda: tracker.tracker.info.run_id,
        "aim": lambda: tracker.tracker.hash,
        "comet": lambda: options["experiment_key"],
    }
    return str(chosen[name]() if name in chosen else options["id"])


@contextlib.contextmanager
def _surviving(accelerator: Accelerator, console: Console) -> Generator[None]:
    """Go on without a tracker that fails; it may know no network any more, and would cost every step a wait."""
    try:
        with _unasked():
            yield
    except Exception as error:
        accelerator.trackers.clear()
        console.warn(
            f"the tracker fails, and the training goes on without it; metrics.jsonl has every row: {first_line(error)}"
        )


@contextlib.contextmanager
def _unasked() -> Generator[None]:
    """Keep trackers from asking anything: nobody answers, neither now nor in the night."""
    stdin = sys.stdin
    with open(os.devnull) as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = stdin


def _settings(preset: dict[str, Any]) -> dict[str, Any]:
    """The settings of a preset, section.key each; trackers know neither lists nor nothing."""
    return {
        key: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
        for key, value in flat(preset).items()
    }


def _numbers(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of a row but its iteration; those of a list or a mapping are called name/part."""
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, list):
            value = {str(index): part for index, part in enumerate(value)}
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{key}/")
        elif value is not None and key != "iteration" and math.isfinite(value):
            found[prefix + key] = int(value) if isinstance(value, bool) else value
    return found


def _show_array(tracker: Any, name: str, picture: Image, iteration: int) -> None:
    import numpy as np

    tracker.log_images({name: np.asarray(picture)[None]}, step=iteration, dataformats="NHWC")


def _show_list(tracker: Any, name: str, picture: Image, iteration: int) -> None:
    tracker.log_images({name: [picture]}, step=iteration)


def _show_one(tracker: Any, name: str, picture: Image, iteration: int) -> None:
    tracker.log_images({name: picture}, step=iteration)


def _show_as_value(tracker: Any, name: str, picture: Image, iteration: int) -> None:
    tracker.log({name: import_module("trackio").Image(picture)}, step=iteration)


def _show_in_mlflow(tracker: Any, name: str, picture: Image, iteration: int) -> None:
    import_module("mlflow").log_image(picture, key=name, step=iteration)


def _show_in_comet(tracker: Any, name: str, picture: Image, iteration: int) -> None:
    tracker.tracker.log_image(picture, name=name, step=iteration)


# By accelerate's names; three of its trackers know no pictures, and the packages themselves do.
SHOW: dict[str, Callable[[Any, str, Image, int], None]] = {
    "tensorboard": _show_array,
    "wandb": _show_list,
    "swanlab": _show_list,
    "aim": _show_one,
    "trackio": _show_as_value,
    "mlflow": _show_in_mlflow,
    "comet_ml": _show_in_comet,
}
