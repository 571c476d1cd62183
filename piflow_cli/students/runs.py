"""The files of a run, and the check whose folder it is."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import UsageError
from ..presets.places import with_full_paths
from ..presets.resolve import flat, from_dict, to_dict
from ..presets.yaml_files import write_yaml
from ..system.files import recover, replacing_file, stood_aside
from ..system.folders import sync_folder
from ..system.locking import LOCK_NAME

if TYPE_CHECKING:
    from ..presets.schema import Preset

SETTINGS_NAME = "run.yaml"
ADAPTER_NAME = "adapter"
DATA_NAME = "data.sha256"
FORK_NAME = "fork.json"
BUDGET_NAME = "budget.yaml"
# Settings that may change between two starts of one run: they leave every iteration as it is.
FREE_SETTINGS = (
    "output.", "data.cache", "data.offload_text_encoder", "adapter.offload_base", "summary", "teacher.memory",
    "teacher.license",
)  # fmt: skip
LENGTH = "optimisation.iterations"
# Settings that a budget decides: they are as the first start has planned them.
PLANNED = {
    "optimisation": ("iterations", "batch_size", "device_batch_size", "warmup", "schedule"),
    "imitation": ("mixing_iterations",),
}
# The file begins with the digest of what follows, as a comment; files of piflow 0.1 have none.
DIGEST = "# sha256 of the rest: "
_NUMBER = "[0-9]{7,}"
_WRITTEN = re.compile(
    r"run\.yaml|budget\.yaml|data\.sha256|versions\.json|fork\.json|trackers\.json|metrics\.jsonl|adapter|samples\.png|loss\.png"
)
_CHECKPOINT, _PREVIEW = re.compile(_NUMBER), re.compile(_NUMBER + r"\.png")


@dataclass(frozen=True)
class BudgetRecord:
    """Seconds that a run under a budget has ``spent``, and the ``stretches`` of its schedule: start, progress, end."""

    spent: float = 0.0
    stretches: tuple[tuple[int, float, int], ...] = ()


@dataclass(frozen=True)
class RunFolder:
    """Paths inside the output folder of `piflow distill`."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / SETTINGS_NAME

    @property
    def budget(self) -> Path:
        return self.path / BUDGET_NAME

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / ADAPTER_NAME

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    def command(self) -> str:
        """The command that goes on with the run, or writes its student again."""
        # The run's settings, since the preset's name leaves out what was changed on the command line.
        return f"piflow distill --teacher {quote(str(self.settings))} --output {quote(str(self.path))}"

    def _is_empty(self) -> bool:
        """Whether a folder holds nothing but the lock, and leftovers of a start that was killed."""
        return not self.path.exists() or all(
            found.name == LOCK_NAME or stood_aside(found, _WRITTEN) is not None for found in self.path.iterdir()
        )

    def check(self, preset: Preset) -> None:
        """Raise UsageError unless the folder is new, empty, or belongs to this very configuration."""
        if self._is_empty():
            return
        if not self.settings.is_file():
            raise UsageError(f"{self.path} is not empty and holds no run", "name another folder: --output DIR")
        before = read_settings(self.settings)
        changed = differences(before, preset)
        if changed == [_changed(LENGTH, before.optimisation.iterations, preset.optimisation.iterations)]:
            raise UsageError(
                f"{self.path} is a run of {before.optimisation.iterations} iterations on a cosine, whose rates all"
                " depend on its length",
                f"go on with --iterations {before.optimisation.iterations}, name another folder with --output DIR, "
                "or start over with --no-resume",
            )
        if changed:
            raise UsageError(
                f"{self.path} belongs to another configuration: " + ", ".join(changed),
                "keep what it was with --set KEY=VALUE, name another folder with --output DIR, or start over with"
                f" --no-resume; to begin another with its weights: --fork {quote(str(self.path))} --output DIR",
            )

    def check_data(self, fingerprint: str) -> None:
        """Raise UsageError unless a run that goes on has the data that it began with."""
        record = self.path / DATA_NAME
        if record.is_file() and record.read_text(errors="replace").strip() != fingerprint:
            raise UsageError(
                f"the data are no longer those that the run {self.path} began with, or {record.name} in it is damaged",
                "give it the same prompts or pictures, name another folder with --output DIR, or start over with"
                " --no-resume",
            )

    def write_data(self, fingerprint: str) -> None:
        """Record which data the run is trained on."""
        with replacing_file(self.path / DATA_NAME) as aside:
            aside.write_text(fingerprint + "\n")

    def write_fork(self, source: Path) -> None:
        """Record the checkpoint whose weights the run begins with."""
        record = {"run": str(source.parent.parent.resolve()), "iteration": int(source.name)}
        with replacing_file(self.path / FORK_NAME) as aside:
            aside.write_text(json.dumps(record) + "\n", encoding="utf-8")

    def forked_from(self) -> Path | None:
        """The run whose weights this one began with; None where it began with none, or the record is damaged."""
        try:
            return Path(json.loads((self.path / FORK_NAME).read_text(encoding="utf-8"))["run"])
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None

    def clear_leftovers(self) -> list[Path]:
        """Remove what a killed start of this run left aside; returns what was put back under its name."""
        places = ((self.path, _WRITTEN), (self.checkpoints, _CHECKPOINT), (self.previews, _PREVIEW))
        return [path for folder, ours in places for path in recover(folder, ours)]

    def set_aside(self) -> Path | None:
        """Move an earlier run to the first free DIR.1, DIR.2, …; None where there is nothing to move."""
        if self._is_empty():
            return None
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(target)
        sync_folder(target.parent)
        return target

    def write_settings(self, preset: Preset) -> None:
        """Record the resolved configuration."""
        _write(self.settings, to_dict(preset))

    def planned(self, preset: Preset) -> Preset | None:
        """``preset`` with the numbers that a budget gave the run in this folder; None where it has none."""
        if preset.optimisation.budget is None or not self.settings.is_file():
            return None
        before, sections = read_settings(self.settings), {}
        for name, keys in PLANNED.items():
            old = getattr(before, name)
            sections[name] = replace(getattr(preset, name), **{key: getattr(old, key) for key in keys})
        found = replace(preset, **sections)
        stretches = self.read_budget().stretches
        # A start that is killed between two files has written this one first.
        length = stretches[-1][2] if stretches else found.optimisation.iterations
        return replace(found, optimisation=replace(found.optimisation, iterations=length))

    def write_budget(self, record: BudgetRecord) -> None:
        """Record what is spent."""
        _write(self.budget, {"spent": record.spent, "stretches": [list(one) for one in record.stretches]})

    def read_budget(self) -> BudgetRecord:
        """What was spent until the last checkpoint; raises UsageError where the file is damaged."""
        if not self.budget.is_file():
            return BudgetRecord()
        found = _recorded(self.budget)
        try:
            stretches = tuple((int(start), float(progress), int(end)) for start, progress, end in found["stretches"])
            return BudgetRecord(float(found["spent"]), stretches)
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(
                f"{self.budget} is damaged", "take the file away, and the run counts as one that has spent nothing"
            ) from error


def _write(path: Path, data: dict[str, Any]) -> None:
    """Write ``data`` as YAML below its digest."""
    text = write_yaml(data)
    with replacing_file(path) as aside:
        aside.write_text(f"{DIGEST}{_digest(text)}\n{text}", encoding="utf-8")


def usual_folder(preset: Preset) -> Path:
    """The folder of a preset's runs, where none is asked for."""
    return Path("runs") / preset.name


def read_settings(path: Path) -> Preset:
    """The configuration that a run was started with; raises UsageError where the file is damaged."""
    return from_dict(_recorded(path), str(path))


def recorded_length(path: Path) -> tuple[int, str | None]:
    """The iterations that a run was started for, and its budget if it has one.

    Other settings are not looked at: some of them need torch. Raises UsageError where the file is damaged.
    """
    found = _recorded(path)
    section = found.get("optimisation") if isinstance(found, dict) else None
    length = section.get("iterations") if isinstance(section, dict) else None
    budget = section.get("budget") if isinstance(section, dict) else None
    if not isinstance(length, int):
        raise UsageError(
            f"{path} says of no number of iterations", "the folder is damaged: name another with --output DIR"
        )
    return length, None if budget is None else str(budget)


def _recorded(path: Path) -> Any:
    """The content of a settings file, whose digest is checked."""
    try:
        text = path.read_bytes().decode()
        if text.startswith(DIGEST):
            first, _, rest = text.partition("\n")
            if first.removeprefix(DIGEST) != _digest(rest):
                raise UsageError(
                    f"{path} is damaged, or was changed by hand: its digest does not match",
                    "copy it again, or name another folder: --output DIR; where you changed it yourself, take out its"
                    " first line",
                )
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML", "the folder is damaged: name another with --output DIR") from error


def run_of(adapter: Path) -> RunFolder | None:
    """The run that holds the folder ``adapter``; None where none does."""
    run = RunFolder(adapter.parent)
    return run if adapter.name == ADAPTER_NAME and run.settings.is_file() else None


def iterations_asked(adapter: Path) -> int | None:
    """The number of iterations of the run that holds the folder ``adapter``; None where none does."""
    run = run_of(adapter)
    if run is None:
        return None
    try:
        return read_settings(run.settings).optimisation.iterations
    except UsageError:
        # A damaged record of the run takes nothing from a student that is whole.
        return None


def differences(before: Preset, now: Preset) -> list[str]:
    """Lines ``section.key was A, is B`` for two configurations; settings that change no iteration are left out.

    The number of iterations is one of them while the rate does not depend on it.
    """
    # Runs of 0.1.0 have paths as they were typed.
    old, new = (flat(to_dict(with_full_paths(preset))) for preset in (before, now))
    free = (
        (*FREE_SETTINGS, LENGTH)
        if before.optimisation.schedule == now.optimisation.schedule == "constant"
        else FREE_SETTINGS
    )
    if before.optimisation.budget == now.optimisation.budget is not None:
        free = (*free, *(f"{section}.{key}" for section, keys in PLANNED.items() for key in keys))
    keys = [key for key in sorted(old.keys() | new.keys()) if not key.startswith(free)]
    # A section that only one of them has shows key by key.
    return [_changed(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def _changed(key: str, before: object, now: object) -> str:
    return f"{key} was {before}, is {now}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
