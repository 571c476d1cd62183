"""The files of a preset: its own, those that it extends, and the variants of each under another policy.

`extends: flux-dev` at the top of a preset names another one, shipped or in a file (its path starts at that file's
folder). The preset then gives its name and the keys that differ; the nearer file wins.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from piflow_cli.errors import UsageError
from piflow_cli.presets.faults import Fault, Mend
from piflow_cli.presets.folders import preset_path
from piflow_cli.presets.keys import OF_FILES, VARIANTS
from piflow_cli.presets.layers import Layer, merge, nested
from piflow_cli.presets.parsing import parse, read_file
from piflow_cli.presets.schema import POLICY_KINDS
from piflow_cli.presets.yaml_files import describe

DEEPEST = 8
# A preset is called by its own name: that of another would share its folder of runs.
NOT_INHERITED = ("name",)


@dataclass(frozen=True)
class Part:
    """One file: the values of its sections, and of each variant."""

    base: Layer
    variants: Mapping[str, Layer] = field(default_factory=dict)


@dataclass(frozen=True)
class PresetFiles:
    """A preset as written.

    ``parts``: its files, from the farthest that it extends to its own. ``faults``: what was wrong with them.
    """

    parts: tuple[Part, ...]
    faults: list[Fault]

    @property
    def source(self) -> str:
        """The preset's own file."""
        return self.parts[-1].base.source

    @property
    def kind(self) -> str:
        """The kind of policy that the preset itself has; "" where it gives no valid one."""
        return policy_asked(merge(part.base for part in self.parts)[0])

    def layers(self, kind: str) -> list[Layer]:
        """The values under a policy of this ``kind``; later layers win."""
        return [
            layer
            for part in self.parts
            for layer in (part.base, *([part.variants[kind]] if kind in part.variants else []))
        ]


def policy_asked(values: Mapping[str, Any]) -> str:
    """The kind of policy that some values ask for; "" where they give no valid one."""
    policy = values.get("policy")
    kind = policy.get("kind") if isinstance(policy, Mapping) else None
    return kind if isinstance(kind, str) else ""


def read_preset(name_or_path: str | Path) -> PresetFiles:
    """The shipped preset of that name, or the one in that file, with all that it extends.

    Raises:
        UsageError: a file cannot be read, or what is extended is unknown, a circle or too long a chain.
    """
    found = PresetFiles((), [])
    layers, faults = _chain(preset_path(name_or_path))
    for layer in reversed(layers):
        found = _with_file(found, layer, inherited=layer is not layers[0])
    return PresetFiles(found.parts, [*faults, *found.faults])


def _chain(path: Path) -> tuple[list[Layer], list[Fault]]:
    """The content of a file, of the one that it extends, and so on, and the keys that appear twice in them."""
    layers, faults = [], []
    files: list[str] = []
    layer, repeated = read_file(path)
    while True:
        files.append(os.path.realpath(path))
        layers.append(layer)
        faults += repeated
        if "extends" not in layer.values:
            return layers, faults
        try:
            path = _extended(layer.values["extends"], path.parent)
            layer, repeated = read_file(path)
        except UsageError as error:
            raise UsageError(f"{layer.source}: extends: {error.message}", error.hint) from error
        _refuse_chain([*layers, layer], os.path.realpath(path) in files)


def _extended(value: object, folder: Path) -> Path:
    if not isinstance(value, str) or not value:
        raise UsageError(
            f"must be the name of a preset or the path of a YAML file, not {describe(value)}",
            "write `extends: flux-dev`, for example",
        )
    return preset_path(value, folder, "preset")


def _refuse_chain(layers: list[Layer], circle: bool) -> None:
    sources = [layer.source for layer in layers]
    if circle:
        raise UsageError(
            f"{sources[-2]}: extends: the files extend one another in a circle: {' extends '.join(sources)}",
            "take the `extends:` line out of one of them",
        )
    if len(layers) > DEEPEST:
        raise UsageError(
            f"{sources[-2]}: extends: {len(layers)} files extend one another, and {DEEPEST} may",
            "write what several of them say into one",
        )


def _with_file(parents: PresetFiles, layer: Layer, inherited: bool) -> PresetFiles:
    """The union of ``parents`` and a file that extends them; ``inherited``: whether another file extends it."""
    without = (*OF_FILES, *(NOT_INHERITED if inherited else ()))
    base = Layer(layer.source, {key: value for key, value in layer.values.items() if key not in without})
    alone = PresetFiles((*parents.parts, Part(base)), parents.faults)
    written = layer.values.get("variants", {})
    if not isinstance(written, Mapping):
        return PresetFiles(alone.parts, [*alone.faults, Fault(base.source, "variants", "must be a section per policy")])
    wrong = {kind: what for kind, values in written.items() if (what := _variant_fault(kind, values, alone.kind))}
    variants = {kind: Layer(base.source, values) for kind, values in written.items() if kind not in wrong}
    faults = [Fault(base.source, f"variants.{kind}", what, _policy_meant(kind)) for kind, what in wrong.items()]
    whole = PresetFiles((*parents.parts, Part(base, variants)), [*alone.faults, *faults])
    return PresetFiles(whole.parts, [*whole.faults, *_faults_of_variants(whole)])


def _policy_meant(kind: str) -> tuple[Mend, ...]:
    """The policy that the name of a variant was meant to be."""
    close = difflib.get_close_matches(kind.lower(), POLICY_KINDS, n=1) if kind not in POLICY_KINDS else []
    return tuple(Mend(f"{VARIANTS}.{name}", None, instead=True) for name in close)


def _variant_fault(kind: str, values: object, own_kind: str) -> str | None:
    if kind not in POLICY_KINDS:
        return f"unknown policy; known: {', '.join(POLICY_KINDS)}"
    if kind == own_kind:
        return "is the preset's own policy; write its values in the sections themselves"
    if not isinstance(values, Mapping):
        return "must hold sections of keys"
    return None


def _faults_of_variants(preset: PresetFiles) -> list[Fault]:
    """The faults in variants of the preset's own file, whether or not anyone ever chooses them."""
    variants = preset.parts[-1].variants
    known = parse(preset.layers(preset.kind), preset.source)[1] if variants else []
    faults = []
    for kind, layer in variants.items():
        chosen = Layer(preset.source, nested({"policy.kind": kind}))
        found = parse([*preset.layers(kind), chosen], preset.source)[1]
        faults += [_within(f"{VARIANTS}.{kind}", fault, preset.source) for fault in found if fault not in known]
        if policy_asked(layer.values):
            what = "is given by the variant's name; remove it"
            faults.append(Fault(preset.source, f"variants.{kind}.policy.kind", what))
    return faults


def _within(variant: str, fault: Fault, source: str) -> Fault:
    """A fault of the preset under a ``variant``, as one of the variant."""
    mends = tuple(replace(mend, key=f"{variant}.{mend.key}") for mend in fault.mends)
    return Fault(source, f"{variant}.{fault.key}", fault.what, mends)
