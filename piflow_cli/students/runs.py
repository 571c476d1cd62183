"""The files of a run, and the check whose folder it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..presets.resolve import to_dict
from ..system.files import TRIAL, recover, replacing_file, stood_aside
from ..system.folders import sync_folder, with_a_name
from ..system.locking import LOCK_NAME
from ..system.outputs import next_free
from .run_checkpoints import checkpoints
from .run_settings import (
    DIGEST,
    LENGTH,
    PLANNED,
    asked_otherwise,
    differences,
    read_settings,
    read_yaml_record,
    said_change,
    write_yaml_record,
)

if TYPE_CHECKING:
    from ..presets.schema import Preset

SETTINGS_NAME = "run.yaml"
ADAPTER_NAME = "adapter"
DATA_NAME = "data.sha256"
FORK_NAME = "fork.json"
BUDGET_NAME = "budget.yaml"
# What a start writes before the settings, which make a folder a run; and how those files of ours begin.
EARLY = {BUDGET_NAME: DIGEST, FORK_NAME: '{"run": '}
_NUMBER = "[0-9]{7,}"
_WRITTEN = re.compile(
    r"run\.yaml|budget\.yaml|data\.sha256|versions\.json|fork\.json|trackers\.json"
    r"|metrics\.jsonl|adapter|samples\.png|loss\.png"
)
_CHECKPOINT, _PREVIEW = re.compile(_NUMBER), re.compile(_NUMBER + r"\.png")


@dataclass(frozen=True)
class BudgetRecord:
    """Seconds that a run under a budget has ``spent``, and the ``stretches`` of its schedule: start, progress, end.

    ``asked``: what the first start was given for the settings that the budget decides.
    """

    spent: float = 0.0
    stretches: tuple[tuple[int, float, int], ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)


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
        """Whether a folder holds nothing but the lock, leftovers of a start that was killed, and trials of another."""
        if not self.path.exists():
            return True
        ours = (self.path / LOCK_NAME, *self._early())
        return all(
            found in ours or found.name.startswith(TRIAL) or stood_aside(found, _WRITTEN) is not None
            for found in self.path.iterdir()
        )

    def _early(self) -> list[Path]:
        """What was left by a start that was killed before it wrote the settings."""
        if self.settings.exists():
            return []
        places = {self.path / name: begins for name, begins in EARLY.items()}
        return [
            place
            for place, begins in places.items()
            if place.is_file() and place.read_bytes().startswith(begins.encode())
        ]

    def check(self, preset: Preset) -> None:
        """Raise UsageError unless the folder is new, empty, or belongs to this very configuration."""
        if self._is_empty():
            return
        if not self.settings.is_file():
            raise UsageError(
                f"{self.path} is not empty and holds no run", f"name another folder: --output {self._beside()}"
            )
        before = read_settings(self.settings)
        changed = differences(before, preset)
        if changed == [said_change(LENGTH, before.optimisation.iterations, preset.optimisation.iterations)]:
            raise UsageError(
                f"{self.path} is a run of {before.optimisation.iterations} iterations on a cosine, whose rates all"
                " depend on its length",
                f"go on with --iterations {before.optimisation.iterations}, name another folder with"
                f" --output {self._beside()}, or start over with --no-resume",
            )
        if not changed and before.optimisation.budget is not None:
            self._check_asked(before, preset)
        if changed:
            raise UsageError(
                f"{self.path} belongs to another configuration: " + ", ".join(changed),
                f"keep what it was with --set KEY=VALUE, name another folder with --output {self._beside()}, or start"
                " over with --no-resume; to begin another with its weights:"
                f" --fork {quote(str(self.path))} --output {self._beside()}",
            )

    def _check_asked(self, before: Preset, preset: Preset) -> None:
        """Raise UsageError where what a budget has decided is asked for in another way than in the first start."""
        if changed := asked_otherwise(self.read_budget().asked, before, preset):
            raise UsageError(
                f"the budget of {self.path} has decided that already: {', '.join(changed)}",
                f"leave that as it was, name another folder with --output {self._beside()}, or start over with"
                " --no-resume",
            )

    def _beside(self) -> str:
        """The first free folder beside this one, as it is typed."""
        return quote(str(next_free(self.path)))

    def check_data(self, fingerprint: str) -> None:
        """Raise UsageError unless a run that goes on has the data that it began with."""
        record = self.path / DATA_NAME
        if record.is_file() and record.read_text(errors="replace").strip() != fingerprint:
            raise UsageError(
                f"the data are no longer those that the run {self.path} began with, or {record.name} in it is damaged",
                f"give it the same prompts or pictures, name another folder with --output {self._beside()}, or start"
                " over with --no-resume",
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
        """The run whose weights this one began with; None where it began with none.

        Raises UsageError where the record is damaged.
        """
        record = self.path / FORK_NAME
        if not self.settings.is_file() or not record.exists():
            return None
        try:
            return Path(json.loads(record.read_text(encoding="utf-8"))["run"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{record} is damaged: it does not say whose weights the run began with",
                "take the file away, and the run goes on from its own checkpoints"
                if checkpoints(self.checkpoints)
                else "begin it once more: --no-resume --fork RUN",
            ) from error

    def clear_early(self) -> None:
        """Remove what was left by a start that was killed before it wrote the settings."""
        for place in self._early():
            place.unlink()

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
        write_yaml_record(self.settings, to_dict(preset))

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
        stretches = [list(one) for one in record.stretches]
        write_yaml_record(self.budget, {"spent": record.spent, "stretches": stretches, "asked": dict(record.asked)})

    def read_budget(self) -> BudgetRecord:
        """What was spent until the last checkpoint; raises UsageError where the file is damaged."""
        if not self.budget.is_file():
            return BudgetRecord()
        found = read_yaml_record(self.budget)
        try:
            stretches = tuple((int(start), float(progress), int(end)) for start, progress, end in found["stretches"])
            return BudgetRecord(float(found["spent"]), stretches, dict(found.get("asked", {})))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{self.budget} is damaged", "take the file away, and the run counts as one that has spent nothing"
            ) from error


def run_of(adapter: Path) -> RunFolder | None:
    """The run that holds the folder ``adapter``; None where none does."""
    adapter = with_a_name(adapter)
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
