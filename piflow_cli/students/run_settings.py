"""What a run was started with, as files below their digests, and how two configurations differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import UsageError
from ..presets.places import with_full_paths
from ..presets.resolve import flat, from_dict, to_dict
from ..presets.yaml_files import write_yaml
from ..system.files import replacing_file

if TYPE_CHECKING:
    from ..presets.schema import Preset

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


def write_yaml_record(path: Path, data: dict[str, Any]) -> None:
    """Write ``data`` as YAML below its digest."""
    text = write_yaml(data)
    with replacing_file(path) as aside:
        aside.write_text(f"{DIGEST}{_digest(text)}\n{text}", encoding="utf-8")


def read_settings(path: Path) -> Preset:
    """The configuration that a run was started with; raises UsageError where the file is damaged."""
    return from_dict(read_yaml_record(path), str(path))


def recorded_length(path: Path) -> tuple[int, str | None]:
    """The iterations that a run was started for, and its budget if it has one.

    Other settings are not looked at: some of them need torch. Raises UsageError where the file is damaged.
    """
    found = recorded_settings(path)
    length, budget = found.get(LENGTH), found.get("optimisation.budget")
    if not isinstance(length, int):
        raise UsageError(
            f"{path} says of no number of iterations", "the folder is damaged: name another with --output DIR"
        )
    return length, None if budget is None else str(budget)


def recorded_settings(path: Path) -> dict[str, object]:
    """What a run was started with, by dotted keys, unchecked; raises UsageError where the file is damaged."""
    found = read_yaml_record(path)
    return flat(found) if isinstance(found, dict) else {}


def read_yaml_record(path: Path) -> Any:
    """The content of a file that :func:`write_yaml_record` wrote; raises UsageError where it is no longer that."""
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
    # Where one has no budget, or another, that is the difference, and these follow from it.
    if before.optimisation.budget is not None or now.optimisation.budget is not None:
        free = (*free, *(f"{section}.{key}" for section, keys in PLANNED.items() for key in keys))
    keys = [key for key in sorted(old.keys() | new.keys()) if not key.startswith(free)]
    # A section that only one of them has shows key by key.
    return [said_change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def planned_settings(preset: Preset) -> dict[str, Any]:
    """The settings that a budget decides, by dotted key, as they are in ``preset``."""
    return {f"{name}.{key}": getattr(getattr(preset, name), key) for name, keys in PLANNED.items() for key in keys}


def asked_otherwise(asked: Mapping[str, Any], before: Preset, now: Preset) -> list[str]:
    """Lines for the settings that a budget decides and that ``now`` has neither as first ``asked`` nor as planned.

    ``before``: the plan, which whoever goes on by the run's own settings has.
    """
    planned, new = planned_settings(before), planned_settings(now)
    return [
        said_change(key, value, new[key])
        for key, value in asked.items()
        if key in new and new[key] not in (value, planned[key])
    ]


def said_change(key: str, before: object, now: object) -> str:
    """The line of one setting."""
    return f"{key} was {before}, is {now}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
