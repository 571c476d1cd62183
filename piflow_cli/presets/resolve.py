"""Presets: where they lie, loading one by name or path, and resolving one with what the command line adds.

A preset is one YAML file. Precedence, highest first: flag, `--set section.key=value`, `--config` file, the preset's
variant for the chosen policy, the preset. An option left None was not given.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_cli.console import plain
from piflow_cli.errors import UsageError
from piflow_cli.presets.families import CLASS, told
from piflow_cli.presets.folders import available, preset_file, presets_root
from piflow_cli.presets.schema import (
    POLICY_KINDS,
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
    from piflow_cli.presets.parsing import Layer
    from piflow_cli.presets.yaml_files import Fault

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


PICTURES = "data"


@dataclass(frozen=True)
class PresetFile:
    """A preset as written: its values, what changes under another policy, and the faults that reading it showed."""

    base: Layer
    variants: Mapping[str, Layer]
    faults: list[Fault]


def load(name_or_path: str | Path) -> Preset:
    """The preset of that name, or in that YAML file; UsageError lists everything that is wrong with it."""
    return resolve(name_or_path, config=None, assignments=[], flags={})


def resolve(
    name_or_path: str | Path, config: Path | None, assignments: list[str], flags: Mapping[str, object]
) -> Preset:
    """A preset with everything the command line changes.

    Args:
        name_or_path: a shipped preset, or the path of a YAML file. config: a YAML file with any subset of a preset's
        keys. assignments: `section.key=value` texts; values are read as YAML. flags: dotted key → value of an option;
        None means it was not given. PICTURES stands for the key of pictures, which have
            labels or captions as the teacher is told a class or a text.

    Raises:
        UsageError: unknown name, unreadable file, or all faults of all places in one message.
    """
    from piflow_cli.presets.idle import idle_faults
    from piflow_cli.presets.parsing import (
        COMMAND_LINE,
        Layer,
        merge,
        nested,
        parse,
        read_assignment,
        read_file,
    )

    preset_file = _read_preset(name_or_path)
    faults = list(preset_file.faults)
    given: list[Layer] = []
    for layer, repeated in [*([read_file(config)] if config is not None else []), *map(read_assignment, assignments)]:
        given.append(layer)
        faults += repeated
    family = _of_teacher(merge([preset_file.base, *given])[0])
    meant = {_meant(key, family): value for key, value in flags.items() if value is not None}
    given.append(Layer(COMMAND_LINE, nested(meant)))
    kind = _kind(merge(given)[0])
    variant = [preset_file.variants[kind]] if kind in preset_file.variants else []
    preset, found = parse([preset_file.base, *variant, *given])
    idle = [] if preset is None else list(idle_faults(preset, given))
    return _checked(preset, faults + found + idle)


def from_dict(data: object, source: str) -> Preset:
    """The preset that `to_dict` wrote down; `source` names the file it was read from, for messages.

    Raises:
        UsageError: all faults in one message.
    """
    from piflow_cli.presets.parsing import Layer, parse
    from piflow_cli.presets.yaml_files import describe

    if not isinstance(data, Mapping):
        raise UsageError(f"{source} holds {describe(data)}, not a preset", "name another file or folder")
    preset, faults = parse([Layer(source, data)])
    return _checked(preset, faults)


def to_dict(preset: Preset) -> dict[str, Any]:
    """A preset as plain data (dicts, lists, numbers, text) for JSON and YAML; `from_dict` is its inverse."""
    return plain(asdict(preset))


def _checked(preset: Preset | None, faults: list[Fault]) -> Preset:
    from piflow_cli.presets.parsing import refuse

    refuse(faults, hint=f"the shipped presets show every key and its unit: {presets_root()}")
    assert preset is not None, "a preset without faults is a preset"
    return preset


def _kind(values: Mapping[str, Any]) -> str:
    """The policy kind that some values ask for; "" where they say nothing of use."""
    policy = values.get("policy")
    kind = policy.get("kind") if isinstance(policy, Mapping) else None
    return kind if isinstance(kind, str) else ""


def _of_teacher(values: Mapping[str, Any]) -> object:
    """The family that some values ask for."""
    teacher = values.get("teacher")
    return teacher.get("family") if isinstance(teacher, Mapping) else None


def _meant(key: str, family: object) -> str:
    """The key that an option stands for at a teacher of ``family``."""
    if key != PICTURES:
        return key
    return "data.images" if told(family) == CLASS else "data.captioned"


def _path(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
        return Path(name_or_path)
    names = available()
    if text not in names:
        close = difflib.get_close_matches(text, names, n=1)
        suggestion = f"did you mean {close[0]}? " if close else ""
        raise UsageError(
            f"no teacher is named {text!r}; known: {', '.join(names)}",
            f"{suggestion}piflow distill --list-teachers describes them",
        )
    return preset_file(text)


def _read_preset(name_or_path: str | Path) -> PresetFile:
    from piflow_cli.presets.parsing import Layer, read_file
    from piflow_cli.presets.yaml_files import Fault

    layer, faults = read_file(_path(name_or_path))
    base = Layer(layer.source, {key: value for key, value in layer.values.items() if key != "variants"})
    written = layer.values.get("variants", {})
    if not isinstance(written, Mapping):
        return PresetFile(base, {}, [*faults, Fault(base.source, "variants", "must be a section per policy")])
    variants = {}
    for kind, values in written.items():
        what = _variant_fault(kind, values, _kind(base.values))
        if what is not None:
            faults.append(Fault(base.source, f"variants.{kind}", what))
            continue
        variants[kind] = Layer(base.source, values)
        faults += _faults_of_variant(base, kind, values)
    return PresetFile(base, variants, faults)


def _variant_fault(kind: str, values: object, own_kind: str) -> str | None:
    if kind not in POLICY_KINDS:
        return f"unknown policy; known: {', '.join(POLICY_KINDS)}"
    if kind == own_kind:
        return "is the preset's own policy; write its values in the sections themselves"
    if not isinstance(values, Mapping):
        return "must hold sections of keys"
    return None


def _faults_of_variant(base: Layer, kind: str, values: Mapping[str, Any]) -> list[Fault]:
    """What a variant adds to the faults of its preset, whether or not anyone ever chooses that policy."""
    from piflow_cli.presets.parsing import Layer, nested, parse
    from piflow_cli.presets.yaml_files import Fault

    known = parse([base])[1]
    chosen = Layer(base.source, nested({"policy.kind": kind}))
    found = parse([base, Layer(base.source, values), chosen])[1]
    faults = [Fault(fault.source, f"variants.{kind}.{fault.key}", fault.what) for fault in found if fault not in known]
    if _kind(values):
        faults.append(Fault(base.source, f"variants.{kind}.policy.kind", "is given by the variant's name; remove it"))
    return faults
