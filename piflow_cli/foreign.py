"""Adapters from elsewhere, which say what they are but not how to sample them: the rest comes from a preset."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .errors import RunError
from .presets import available, load
from .student import StudentFacts
from .teachers import family_of

if TYPE_CHECKING:
    from .core.decoding import PolicyKind
    from .preset_schema import Preset

POLICY_TYPES = {("GMFlow", "grid"): "gm", ("DX", "grid"): "dx", ("DX", "polynomial"): "dx-poly"}


def facts_of_foreign(
    config: Mapping[str, Any], metadata: Mapping[str, str], teacher: str | None, say: Callable[[str], None]
) -> StudentFacts:
    """Facts of an adapter without ``piflow.*`` metadata.

    Its config and ``policy_config`` give policy, components and, for DX, segment and shift; the values of the preset
    ``teacher`` hold for the rest, or those of the first shipped preset of its class and policy. Raises RunError where
    nothing fits.
    """
    policy_config = _policy_config(metadata)
    kind = POLICY_TYPES.get((policy_config.get("type"), policy_config.get("mode", "grid")))
    if kind is None:
        raise RunError(f"the adapter holds a policy of unknown type '{policy_config.get('type')}'", "update piflow")
    preset = _preset_for(class_of_base(config), kind) if teacher is None else load(teacher)
    say(f"the adapter does not say how it was trained: the values of the preset {preset.name} hold")
    facts = replace(StudentFacts.of(preset), policy=kind)
    try:
        if kind == "gm":
            return replace(facts, components=config["num_gaussians"], logstd_width=config["logstd_inner_dim"])
        # Tokens go in and come out as wide as a patch, N times over.
        components = config["out_channels"] * config.get("patch_size", 1) ** 2 // config["in_channels"]
        return replace(facts, components=components, segment=policy_config["segment_size"], shift=policy_config["shift"])
    except KeyError as error:
        raise RunError(f"the adapter does not say its {error}", "copy its config.json again") from error


def class_of_base(config: Mapping[str, Any]) -> str:
    """Name of the class that a widened config was made from."""
    return config["_class_name"].removeprefix("GM")


def _policy_config(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        return json.loads(metadata["policy_config"])
    except (KeyError, ValueError) as error:
        raise RunError("the adapter does not say which policy it holds", "use one with a policy_config in its metadata") from error


def _preset_for(class_name: str, kind: PolicyKind) -> Preset:
    for name in available():
        preset = load(name)
        if family_of(preset.teacher.family).model_name == class_name and preset.policy.kind == kind:
            return preset
    raise RunError(f"no preset is for {kind} students of {class_name}", "name the preset of a teacher: --teacher NAME")
