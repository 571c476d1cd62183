"""From what a user typed to a student's files on this machine: a run, an adapter, a single file, or a Hub id."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shlex import quote

from ..errors import PiflowError, UsageError
from ..presets.folders import available
from ..presets.places import expanded
from ..system.folders import with_a_name
from ..weights.locate import (
    CHECKPOINT_SUFFIXES,
    COMPONENTS,
    CONFIGS,
    LOCAL_COPY,
    NETWORK,
    hub_id,
    locate,
    network_folder,
)
from ..weights.stored import INDEX_SUFFIX, shards_of
from ..wording import few, shortened
from .fused_loras import KEPT
from .nearby import runs_near
from .runs import RunFolder, run_of
from .stock_settings import SETTINGS, is_stock_student

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
PIPELINE_NAME = "model_index.json"
ON_THE_HUB = (CONFIG_NAME, "diffusion_pytorch_model*.safetensors*", f"{KEPT}/*")
NAME_ONE = "name a run folder, an adapter folder, a .safetensors file or a Hub id"
OR_MAKE_ONE = f"{NAME_ONE}; piflow distill --teacher digits makes runs/digits"
NAMED = 5


@dataclass(frozen=True)
class StudentFiles:
    """The files of a student: its weights (one file, or an index of shards), and its config where it has one."""

    weights: Path
    config: Path | None


def locate_student(student: str | Path, subfolder: str | None = None) -> StudentFiles:
    """The files of ``student``; those on the Hub are fetched unless they are in the cache already.

    Args:
        student: a run folder, an adapter folder, a .safetensors, .pth, .pt, .ckpt or .bin file, or a Hub id
            ``owner/name``, which may go on with a folder or a file inside the repository.
        subfolder: folder inside ``student``.

    Raises:
        UsageError: there is no student there, or more than one.
        RunError: the Hub cannot be reached or denies access, or shards are missing.
    """
    found = path_or_hub_id(student)
    if isinstance(found, Path):
        return _local(found if subfolder is None else found / subfolder, run=subfolder is None)
    repository, inside = found
    return _on_hub(repository, str(PurePosixPath(inside, subfolder or "")))


def check_student(student: str | Path, subfolder: str | None = None) -> None:
    """Raise UsageError as :func:`locate_student` does for what is on this machine; nothing is asked of the Hub."""
    if isinstance(found := path_or_hub_id(student), Path):
        _local(found if subfolder is None else found / subfolder, run=subfolder is None)


def path_or_hub_id(student: str | Path) -> Path | tuple[str, str]:
    """What ``student`` names: something on this machine, or a repository on the Hub and the place in it; nothing is
    asked of the Hub yet.

    Raises:
        UsageError: it is neither.
    """
    if not str(student).strip():
        raise UsageError("the name of the student is empty", OR_MAKE_ONE)
    if isinstance(student, str) and student.startswith("~"):
        student = expanded(student)
    # Unlike pathlib's, this test takes a text that is too long for a name.
    if os.path.exists(student):
        return Path(student)
    if str(student) in available():
        raise UsageError(
            f"there is no student at {student}, which is the preset of a teacher",
            _near_hint(Path(student), f"make a student of it: piflow distill --teacher {student}"),
        )
    if (hub := hub_id(str(student))) is None:
        raise UsageError(
            f"there is no student at {shortened(student)}: no such file or folder",
            _near_hint(Path(student), OR_MAKE_ONE),
        )
    return hub


def _near_hint(path: Path, otherwise: str) -> str:
    """What to name in the place of ``path``, which is not there: a run near to it, or else ``otherwise``."""
    near = [quote(str(run)) for run in runs_near(path)]
    if len(near) == 1:
        return f"name the run {near[0]}"
    return f"choose among {few(near, NAMED)}" if near else otherwise


def _local(path: Path, run: bool = False) -> StudentFiles:
    if not path.exists():
        raise UsageError(f"there is no folder {path}", "leave --subfolder out, or name another")
    if path.is_file():
        if not path.name.endswith((*CHECKPOINT_SUFFIXES, INDEX_SUFFIX)):
            raise UsageError(f"{path} is no file of weights", OR_MAKE_ONE)
        return _files(path)
    folder = RunFolder(path)
    if run and folder.settings.is_file():
        if not folder.adapter.is_dir():
            raise UsageError(
                f"the run {path} has not finished: it holds no student yet",
                f"finish it: {folder.command()}",
            )
        path = folder.adapter
    if (path / PIPELINE_NAME).is_file():
        if not is_stock_student(path):
            raise _pipeline(path)
        path = network_folder(path)
    if (weights := _only_weights(path)) is not None:
        return _files(weights)
    inside = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _shows_weights(folder)]
    if len(inside) == 1:
        return _local(inside[0])
    if inside:
        raise UsageError(
            f"{path} holds more than one student: {few([folder.name for folder in inside], NAMED)}",
            f"choose one: --subfolder {inside[0].name}",
        )
    if runs := [folder for folder in sorted(path.iterdir()) if os.path.isfile(RunFolder(folder).settings)]:
        raise UsageError(
            f"{path} is a folder of runs: {few([folder.name for folder in runs], NAMED)}",
            f"name one of them: {runs[0]}",
        )
    message = f"{path} is not a student: there are no weights in it"
    if (of := run_of(path)) is not None:
        raise UsageError(message, f"write it again: {of.command()}")
    raise UsageError(message, OR_MAKE_ONE)


def _only_weights(folder: Path) -> Path | None:
    """The one file of weights, or index of shards, in ``folder``; raises UsageError where there are several."""
    found = _weights_in(folder)
    if len(found) > 1:
        raise UsageError(
            f"{folder} holds more than one student: {few([file.name for file in found], NAMED)}",
            f"name one of them: {found[0]}",
        )
    return found[0] if found else None


def _weights_in(folder: Path) -> list[Path]:
    """Files of weights in ``folder``; shards are their index."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")]
    indices = [file for file in files if file.name.endswith(f".safetensors{INDEX_SUFFIX}")]
    parts = {shard for index in indices for shard in shards_of(index)}
    return indices + [file for file in files if file.suffix in CHECKPOINT_SUFFIXES and file not in parts]


def _shows_weights(folder: Path) -> bool:
    """Whether files of weights are in ``folder``; not where it may not be looked into, as a disk's lost+found."""
    try:
        return bool(_weights_in(folder))
    except PermissionError:
        return False


def _files(weights: Path) -> StudentFiles:
    # The run around the folder of a shell is found by the folder's name.
    weights = with_a_name(weights.parent) / weights.name
    config = weights.with_name(CONFIG_NAME)
    if not config.is_file():
        return StudentFiles(weights, None)
    if _brings_code(config):
        raise _export(weights.parent)
    return StudentFiles(weights, config)


def _brings_code(config: Path) -> bool:
    """Whether code lies beside a model, as in a `piflow export` for machines without piflow; adapters have none."""
    try:
        return "auto_map" in json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _pipeline(folder: Path) -> UsageError:
    if any(_brings_code(folder / name / CONFIG_NAME) for name in COMPONENTS):
        return _export(folder)
    return UsageError(
        f"{folder} is a whole pipeline of diffusers, not a student",
        f"{NAME_ONE}; as the base of one: piflow sample RUN --base {quote(str(folder))}",
    )


def _export(folder: Path) -> UsageError:
    return UsageError(
        f"{folder} is an export for diffusers, which loads it; piflow itself reads runs and adapters",
        "its README.md has the code; for piflow, name the run that it was exported from, or: piflow export RUN --format"
        " adapter",
    )


def _on_hub(repository: str, inside: str) -> StudentFiles:
    place = PurePosixPath(inside)
    name = place.name if inside.endswith((*CHECKPOINT_SUFFIXES, INDEX_SUFFIX)) else None
    # An index comes with its shards.
    only = (
        ON_THE_HUB
        if name is None
        else (CONFIG_NAME, f"{KEPT}/*", name, name.replace(INDEX_SUFFIX, "").replace(".safetensors", "-*.safetensors"))
    )
    try:
        folder = _fetched(repository, place if name is None else place.parent, only)
    except UsageError:
        if name is not None or (found := _stock_on_hub(repository, place)) is None:
            raise
        folder = found
    weights = _only_weights(folder) if name is None else folder / name
    if weights is None or not weights.is_file():
        raise UsageError(
            f"{repository} holds no student at {place}",
            f"{_choices(repository)}look at the files on its page on the Hub",
        )
    return _files(weights)


def _stock_on_hub(repository: str, inside: PurePosixPath) -> Path | None:
    """The network of a whole pipeline of diffusers that is a student, by its scheduler; None where it is none."""
    place = str(PurePosixPath(repository, inside))
    try:
        if not is_stock_student(locate(place, only=(SETTINGS,))):
            return None
    except UsageError:
        return None
    return network_folder(locate(place, only=(*NETWORK, SETTINGS)))


def _fetched(repository: str, inside: PurePosixPath, only: tuple[str, ...]) -> Path:
    """As :func:`~piflow_cli.weights.locate.locate`, with messages about a student in place of a base."""
    named = repository if inside == PurePosixPath() else f"{repository}/{inside}"
    try:
        return locate(named, only=only)
    except PiflowError as error:
        choices = _choices(repository) if isinstance(error, UsageError) else ""
        # A slip in the name of a folder reads like a repository.
        message = f"there is no folder {shortened(named)} here; on the Hub, {error.message}"
        local = _near_hint(Path(named), "name a local folder")
        raise type(error)(message, choices + str(error.hint).replace(LOCAL_COPY, local)) from error


def _choices(repository: str) -> str:
    """The folders of a repository that may hold students, as the beginning of a hint; "" if nothing is known of it."""
    try:
        place = locate(repository, only=CONFIGS)
    except PiflowError:
        return ""
    folders = sorted(
        path.parent.relative_to(place).as_posix() for path in place.rglob(CONFIG_NAME) if path.parent != place
    )
    return f"choose one of its folders: --subfolder {few(folders, NAMED)}; or " if folders else ""
