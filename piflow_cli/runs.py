"""What a run leaves on disk, and whose folder it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from .errors import UsageError
from .files import check_writable, replacing_file
from .places import with_full_paths
from .preset_parsing import write_yaml
from .presets import from_dict, to_dict

if TYPE_CHECKING:
    from .preset_schema import Preset

SETTINGS_NAME = "run.yaml"
ADAPTER_NAME = "adapter"
DATA_NAME = "data.sha256"
# Settings that may change between two starts of one run: they leave every iteration as it is.
FREE_SETTINGS = (
    "optimisation.iterations", "output.", "data.cache", "data.offload_text_encoder", "adapter.offload_base",
    "summary", "teacher.memory", "teacher.license",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """Paths inside the output folder of `piflow distill`."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / SETTINGS_NAME

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

    def check(self, preset: Preset) -> None:
        """Make sure that the folder is new, empty, or belongs to this very configuration; raises UsageError otherwise."""
        check_writable(self.path)
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        if not self.settings.is_file():
            raise UsageError(f"{self.path} is not empty and holds no run", "name another folder: --output DIR")
        changed = differences(read_settings(self.settings), preset)
        if changed:
            raise UsageError(
                f"{self.path} belongs to another configuration: " + ", ".join(changed),
                "name another folder with --output DIR, or start over with --no-resume",
            )

    def check_data(self, fingerprint: str) -> None:
        """Make sure that a run that goes on is given the data it began with; raises UsageError otherwise."""
        record = self.path / DATA_NAME
        if record.is_file() and record.read_text().strip() != fingerprint:
            raise UsageError(
                f"the data are no longer those that the run {self.path} began with",
                "give it the same prompts or pictures, name another folder with --output DIR, or start over with --no-resume",
            )

    def write_data(self, fingerprint: str) -> None:
        """Record which data the run is trained on."""
        with replacing_file(self.path / DATA_NAME) as aside:
            aside.write_text(fingerprint + "\n")

    def set_aside(self) -> Path | None:
        """Move an earlier run out of the way, to the first free DIR.1, DIR.2, …; None where there is nothing to move."""
        if not self.path.exists():
            return None
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(target)
        return target

    def write_settings(self, preset: Preset) -> None:
        """Record the resolved configuration."""
        with replacing_file(self.settings) as aside:
            aside.write_text(write_yaml(to_dict(preset)))


def read_settings(path: Path) -> Preset:
    """The configuration that a run was started with."""
    try:
        return from_dict(yaml.safe_load(path.read_text()), str(path))
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML", "the folder is damaged: name another with --output DIR") from error


def iterations_asked(adapter: Path) -> int | None:
    """How long the run is to be that the folder ``adapter`` is in; None where it is in none."""
    settings = RunFolder(adapter.parent).settings
    if adapter.name != ADAPTER_NAME or not settings.is_file():
        return None
    try:
        return read_settings(settings).optimisation.iterations
    except UsageError:
        # A damaged record of the run takes nothing from a student that is whole.
        return None


def differences(before: Preset, now: Preset) -> list[str]:
    """What tells two configurations apart, as ``section.key was A, is B``; settings that leave iterations alone are free."""
    # Runs of 0.1.0 have paths as they were typed.
    old, new = (_flat(to_dict(with_full_paths(preset))) for preset in (before, now))
    keys = [key for key in sorted(old.keys() | new.keys()) if not key.startswith(FREE_SETTINGS)]
    # A section that only one of them has shows key by key.
    return [f"{key} was {old.get(key)}, is {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def _flat(data: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in data.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat
