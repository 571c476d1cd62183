"""The files of a preset: its own, those that it extends, and the variants of each under another policy or recipe.

`extends: flux-dev` at the top of a preset names another one, shipped or in a file (its path starts at that file's
folder). The preset then gives its name and the keys that differ; the nearer file wins.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from piflow_cli.errors import UsageError
from piflow_cli.presets.choices import PUBLISHED, RecipeName
from piflow_cli.presets.faults import Fault, Mend
from piflow_cli.presets.flags import flag_of, is_flag
from piflow_cli.presets.folders import preset_path
from piflow_cli.presets.keys import OF_FILES, RECIPES, VARIANTS
from piflow_cli.presets.layers import Layer, merge, nested
from piflow_cli.presets.parsing import parse, read_file
from piflow_cli.presets.schema import POLICY_KINDS
from piflow_cli.presets.yaml_files import describe

DEEPEST = 8
RECIPE_NAMES = get_args(RecipeName)
EACH = {VARIANTS: "policy", RECIPES: "recipe"}
# A preset is called by its own name: that of another would share its folder of runs.
NOT_INHERITED = ("name",)


@dataclass(frozen=True)
class Part:
    """One file: the values of its sections, and of each variant and recipe."""

    base: Layer
    variants: Mapping[str, Layer] = field(default_factory=dict)
    recipes: Mapping[str, Layer] = field(default_factory=dict)


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

    def layers(self, kind: str, recipe: str = PUBLISHED) -> list[Layer]:
        """The values under a policy of this ``kind`` and a ``recipe``; later layers win."""
        return [
            layer
            for part in self.parts
            for layer in (part.base, part.variants.get(kind), part.recipes.get(recipe))
            if layer is not None
        ]

    def recipe_fault(self, source: str, recipe: str) -> list[Fault]:
        """That there is no such ``recipe``; none where there is. ``source``: where it was asked for."""
        own = recipe_asked(merge(part.base for part in self.parts)[0])
        others = {name for part in self.parts for name in part.recipes}
        known = {own} if not others else {PUBLISHED, *others}
        if recipe in known:
            return []
        what = f"this preset has no recipe but {' and '.join(sorted(known))}"
        option = flag_of("recipe") if is_flag(source) else "--set"
        return [Fault(source, "recipe", what, tuple(Mend("recipe", name, option) for name in sorted(known)))]


def recipe_asked(values: Mapping[str, Any]) -> str:
    """The recipe that some values ask for; the published one where they give no valid one."""
    recipe = values.get("recipe")
    return recipe if isinstance(recipe, str) and recipe in RECIPE_NAMES else PUBLISHED


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
    variants, faults = _readings(layer, VARIANTS, lambda kind, values: _variant_fault(kind, values, alone.kind))
    recipes, wrong = _readings(layer, RECIPES, _recipe_fault)
    whole = PresetFiles((*parents.parts, Part(base, variants, recipes)), [*alone.faults, *faults, *wrong])
    return PresetFiles(whole.parts, [*whole.faults, *_faults_of_readings(whole)])


def _readings(
    layer: Layer, section: str, fault_of: Callable[[str, object], str | None]
) -> tuple[dict[str, Layer], list[Fault]]:
    """The variants or recipes of a file by their names, and the faults of those that cannot be read."""
    written = layer.values.get(section, {})
    if not isinstance(written, Mapping):
        return {}, [Fault(layer.source, section, f"must be a section per {EACH[section]}")]
    wrong = {name: what for name, values in written.items() if (what := fault_of(name, values))}
    known = {name: Layer(layer.source, values) for name, values in written.items() if name not in wrong}
    meant = _policy_meant if section == VARIANTS else lambda name: ()
    return known, [Fault(layer.source, f"{section}.{name}", what, meant(name)) for name, what in wrong.items()]


def _recipe_fault(name: str, values: object) -> str | None:
    if name not in RECIPE_NAMES:
        return f"unknown recipe; known: {', '.join(RECIPE_NAMES)}"
    if name == PUBLISHED:
        return "is what the sections themselves hold; write its values there"
    return None if isinstance(values, Mapping) else "must hold sections of keys"


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


def _faults_of_readings(preset: PresetFiles) -> list[Fault]:
    """The faults in variants and recipes of the preset's own file, whether or not anyone ever chooses them."""
    own = preset.parts[-1]
    if not own.variants and not own.recipes:
        return []
    known = parse(preset.layers(preset.kind), preset.source)[1]
    faults = []
    for kind in own.variants:
        faults += _faults_under(preset, f"{VARIANTS}.{kind}", preset.layers(kind), known, {"policy.kind": kind})
    for name in own.recipes:
        chosen = preset.layers(preset.kind, name)
        faults += _faults_under(preset, f"{RECIPES}.{name}", chosen, known, {"recipe": name})
    for kind in (kind for kind, layer in own.variants.items() if policy_asked(layer.values)):
        what = "is given by the variant's name; remove it"
        faults.append(Fault(preset.source, f"{VARIANTS}.{kind}.policy.kind", what))
    return faults


def _faults_under(
    preset: PresetFiles, reading: str, layers: list[Layer], known: list[Fault], chosen: Mapping[str, object]
) -> list[Fault]:
    """The faults that some ``layers`` have and the preset itself has not (``known``), as those of a ``reading``."""
    found = parse([*layers, Layer(preset.source, nested(chosen))], preset.source)[1]
    return [_within(reading, fault, preset.source) for fault in found if fault not in known]


def _within(reading: str, fault: Fault, source: str) -> Fault:
    """A fault of the preset under a variant or recipe, as one of this ``reading``."""
    mends = tuple(replace(mend, key=f"{reading}.{mend.key}") for mend in fault.mends)
    return Fault(source, f"{reading}.{fault.key}", fault.what, mends)
