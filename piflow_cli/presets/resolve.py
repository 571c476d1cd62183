"""Presets: loading one by name or path, and resolving one with what the command line adds.

Precedence, highest first: flag, `--set section.key=value`, `--config` file, the preset's chosen recipe, its variant for
the chosen policy, the preset, and then the same three of the preset that it extends. An option left None was not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_cli.console import plain
from piflow_cli.errors import UsageError
from piflow_cli.presets.families import CLASS, conditioning_of
from piflow_cli.presets.flags import PICTURES, source_of
from piflow_cli.presets.folders import available, presets_root
from piflow_cli.presets.schema import (
    AdapterSection,
    DataSection,
    ImitationSection,
    OptimisationSection,
    OutputSection,
    PolicySection,
    Preset,
    TeacherSection,
)

if TYPE_CHECKING:
    from piflow_cli.presets.faults import Fault

__all__ = [
    "AdapterSection",
    "DataSection",
    "ImitationSection",
    "OptimisationSection",
    "OutputSection",
    "PolicySection",
    "Preset",
    "TeacherSection",
    "available",
    "from_dict",
    "load",
    "presets_root",
    "resolve",
    "to_dict",
]


COMMAND_LINE = "command line"


def load(name_or_path: str | Path) -> Preset:
    """The preset of that name, or in that YAML file; UsageError lists everything that is wrong with it."""
    return resolve(name_or_path, config=None, assignments=[], flags={})


def resolve(
    name_or_path: str | Path, config: Path | None, assignments: list[str], flags: Mapping[str, object]
) -> Preset:
    """A preset with everything the command line changes.

    Args:
        name_or_path: a shipped preset, or the path of a YAML file.
        config: a YAML file with any subset of a preset's keys.
        assignments: `section.key=value` texts; values are read as YAML.
        flags: dotted key → value of its option; None means it was not given. PICTURES stands for the key of pictures,
            which have labels or captions as the teacher is told a class or a text.

    Raises:
        UsageError: unknown name, unreadable file, or all faults of all places in one message.
    """
    from piflow_cli.presets.idle import changed, idle_faults
    from piflow_cli.presets.layers import Layer, merge, nested
    from piflow_cli.presets.parsing import parse, read_assignment, read_file
    from piflow_cli.presets.preset_files import policy_asked, read_preset, recipe_asked

    files = read_preset(name_or_path)
    faults = list(files.faults)
    given: list[Layer] = []
    for layer, repeated in [*([read_file(config)] if config is not None else []), *map(read_assignment, assignments)]:
        given.append(layer)
        faults += repeated
    family = _of_teacher(merge([*files.layers(files.kind), *given])[0])
    meant = {_meant(key, family): (key, value) for key, value in flags.items() if value is not None}
    options = {key: source_of(option, value) for key, (option, value) in meant.items()}
    given.append(Layer(COMMAND_LINE, nested({key: value for key, (_, value) in meant.items()}), options))
    asked, sources = merge([*files.layers(""), *given])
    recipe = recipe_asked(asked)
    own = files.layers(policy_asked(asked), recipe)
    faults += files.recipe_fault(sources.get("recipe", files.source), recipe)
    preset, found = parse([*own, *given], files.source)
    if preset is not None:
        # A file may be a whole preset; it asks only for the values that it changes.
        wanted = given if config is None else [changed(given[0], merge(own)[0]), *given[1:]]
        found += idle_faults(preset, wanted)
    return _checked(preset, faults + found)


def from_dict(data: object, source: str) -> Preset:
    """The preset that `to_dict` wrote down; `source` names the file it was read from, for messages.

    Raises:
        UsageError: all faults in one message.
    """
    from piflow_cli.presets.layers import Layer
    from piflow_cli.presets.parsing import parse
    from piflow_cli.presets.yaml_files import describe

    if not isinstance(data, Mapping):
        raise UsageError(f"{source} holds {describe(data)}, not a preset", "name another file or folder")
    preset, faults = parse([Layer(source, data)], source)
    return _checked(preset, faults)


def to_dict(preset: Preset) -> dict[str, Any]:
    """A preset as plain data (dicts, lists, numbers, text) for JSON and YAML; `from_dict` is its inverse."""
    return plain(asdict(preset))


def _checked(preset: Preset | None, faults: list[Fault]) -> Preset:
    from piflow_cli.presets.refusal import refuse

    refuse(faults)
    assert preset is not None, "a preset without faults is a preset"
    return preset


def _of_teacher(values: Mapping[str, Any]) -> object:
    """The family that some values ask for."""
    teacher = values.get("teacher")
    return teacher.get("family") if isinstance(teacher, Mapping) else None


def _meant(key: str, family: object) -> str:
    """The key that an option stands for with a teacher of ``family``."""
    if key != PICTURES:
        return key
    return "data.images" if conditioning_of(family) == CLASS else "data.captioned"


def flat(data: dict, prefix: str = "") -> dict[str, object]:
    """The values of nested settings, by section.key."""
    found: dict[str, object] = {}
    for key, value in data.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return found
