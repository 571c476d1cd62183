"""Students from elsewhere, which name their policy but not how to sample it: a preset gives the rest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.heads import outputs_of
from ..core.policies.kinds import PolicyKind, policy_kind, policy_kinds
from ..errors import RunError, UsageError
from ..presets.families import usable_families
from ..presets.folders import SHIPPED_PREFIX
from ..presets.resolve import available, load, resolve
from ..teachers import families, family_of
from ..teachers.base import Network
from ..teachers.folders import on_base, outline_folder
from ..weights.stored import StoredWeights
from .fact_ranges import out_of_range
from .facts import StudentFacts, time_grid
from .shared_base import root
from .student import Student

if TYPE_CHECKING:
    from ..presets.schema import Preset, TeacherSection

# Published folders are called like gmflux_k8_piid_4step and gmrepa_k32_imagenet_piid_2step: policy and teacher in one
# word, number of parts, evaluations.
FOLDER = re.compile(r"([a-z]+\d?)_[a-z]\d+_(?:[a-z]+_)?piid_(\d+)step")
NAME_PRESET = "name the preset of its teacher: --teacher NAME"


def facts_of_published(
    config: Mapping[str, Any] | None,
    weights: StoredWeights,
    teacher: str | None,
    base: str | None,
    say: Callable[[str], None],
) -> StudentFacts:
    """Facts of a student without ``piflow.*`` metadata.

    Its config, its ``policy_config`` and its tensors give policy, components and, for DX, segment and shift; a folder
    with a published name gives the evaluations. The values of the preset ``teacher`` hold for the rest, or those of the
    first shipped preset of its class and policy.

    Raises:
        RunError: it does not say which policy it holds, or one that piflow does not know.
        UsageError: nothing tells its teacher.
    """
    policy_config = _policy_config(weights)
    kind = _kind(policy_config)
    published = _published_folder(weights.path)
    preset = _preset(config, weights, kind, published) if teacher is None else load(teacher)
    preset = replace(preset, teacher=on_base(preset.teacher, base))
    say(f"the student does not say how it was trained: the values of the preset {preset.name} hold")
    facts = replace(StudentFacts.of(preset), policy=kind.name)
    if published is not None:
        nfe = int(published[2])
        facts = replace(facts, nfe=nfe, segment=replace(time_grid(preset), nfe=nfe).segment)
    sizes = _head_sizes(config, weights, kind, preset)
    _refuse_no_sizes(sizes)
    if beyond := list(out_of_range(sizes)):
        raise RunError(f"the student cannot be: {'; '.join(beyond)}", "copy its config.json again")
    facts = replace(facts, **sizes)
    if not kind.own_segment:
        return facts
    spans = {
        "segment_size": policy_config.get("segment_size", kind.published.segment),
        "shift": policy_config.get("shift"),
    }
    if wrong := [
        f"{name} {value!r}"
        for name, value in spans.items()
        if not isinstance(value, int | float) or not 0 < value < math.inf
    ]:
        raise RunError(
            f"the student cannot have {' and '.join(wrong)}", "use one with a whole policy_config in its metadata"
        )
    return replace(facts, segment=spans["segment_size"], shift=spans["shift"])


def class_of_base(config: Mapping[str, Any]) -> str:
    """Name of the class that a widened config was made from."""
    name = config["_class_name"]
    for prefix in dict.fromkeys(kind.published.class_prefix for kind in policy_kinds()):
        name = name.removeprefix("" if prefix is None else prefix)
    return name


def is_ours(config: Mapping[str, Any] | None) -> bool:
    """Whether ``config`` is a widened one of a class that some family has."""
    return config is not None and class_of_base(config) in {family.model_name for family in families().values()}


def base_outline(teacher: TeacherSection) -> Network:
    """The teacher on the meta device, for facts that a student without a config.json lacks."""
    family = family_of(teacher.family)
    return family.outline(outline_folder(family, teacher))


def told_policy(weights: StoredWeights) -> Mapping[str, Any]:
    """The file's ``policy_config``, empty where it has none; raises RunError where it is no JSON object."""
    try:
        return dict(json.loads(weights.metadata.get("policy_config", "{}")))
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{weights.path} has a policy_config that is no JSON object", "copy it again") from error


def _policy_config(weights: StoredWeights) -> Mapping[str, Any]:
    """The file's ``policy_config``; where it has none, the only one that fits its head."""
    found = told_policy(weights)
    if found:
        return found
    for kind in policy_kinds():
        if kind.published.mark is not None and kind.published.mark in weights:
            return {"type": kind.published.type, "mode": kind.published.mode}
    if all("lora_" in name for name in weights):
        raise no_head(weights.path, adapters=True)
    raise RunError(f"{weights.path} does not say which policy it holds", "use one with a policy_config in its metadata")


def no_head(path: Path, adapters: bool) -> RunError:
    """The error for weights that could be a teacher's."""
    what = "a LoRA" if adapters else "the weights of a teacher"
    hint = "put it beside a student: piflow sample RUN --lora PATH" if adapters else "name a student, or copy it again"
    return RunError(f"{path} holds no policy head: it is {what}, not a student", hint)


def _kind(policy_config: Mapping[str, Any]) -> PolicyKind:
    told = (policy_config.get("type"), policy_config.get("mode", "grid"))
    for kind in policy_kinds():
        if (kind.published.type, kind.published.mode) == told:
            return kind
    named = " ".join(str(policy_config[key]) for key in ("type", "mode") if key in policy_config)
    known = ", ".join(dict.fromkeys(kind.published.type for kind in policy_kinds()))
    raise RunError(
        f"the student holds a policy of type '{named}', which piflow cannot roll out",
        f"use one of the types {known}, or update piflow",
    )


def _published_folder(path: Path) -> re.Match[str] | None:
    found = [match for part in path.parts if (match := FOLDER.fullmatch(part))]
    return found[-1] if found else None


def _preset(
    config: Mapping[str, Any] | None, weights: StoredWeights, kind: PolicyKind, published: re.Match[str] | None
) -> Preset:
    """The shipped preset of the student's class, policy and, where its folder tells them, evaluations."""
    teachers = {word: name for family in usable_families() for word, name in family.published.items()}
    if published is not None and published[1] in teachers:
        first = load(teachers[published[1]])
    elif config is not None and any(".lora_A." in name for name in weights):
        first = first_preset(config, kind)
    else:
        # Class-conditional teachers of one class differ in more than their weights, so none of them is a fair guess.
        raise UsageError(f"{weights.path} does not say how to sample it", NAME_PRESET)
    if published is not None:
        told = (first.teacher.base, int(published[2]))
        same = (preset for preset in _shipped(kind) if (preset.teacher.base, preset.policy.nfe) == told)
        return next(same, first)
    return first


def _shipped(kind: PolicyKind) -> Iterator[Preset]:
    """The shipped presets of that policy, or of a policy that is published as the same type.

    Teachers that come with piflow have no students from elsewhere.
    """
    for name in available():
        if load(name).teacher.base.startswith(SHIPPED_PREFIX):
            continue
        if policy_kind(load(name).policy.kind).published.type == kind.published.type:
            yield resolve(name, None, [], {"policy.kind": kind.name})


def first_preset(config: Mapping[str, Any], kind: PolicyKind) -> Preset:
    """The first shipped preset of students of that policy, of the class that ``config`` names.

    Raises UsageError where there is none.
    """
    for preset in _shipped(kind):
        family, name = family_of(preset.teacher.family), class_of_base(config)
        # Models of one class differ in whether they are told the guidance scale.
        told = config.get("guidance_embeds", family.embeds_guidance)
        if (family.model_name, family.embeds_guidance) == (name, told):
            return preset
    raise UsageError(f"no preset is for {kind.name} students of this {name}", NAME_PRESET)


def _refuse_no_sizes(sizes: Mapping[str, Any]) -> None:
    if wrong := [f"{name} {size!r}" for name, size in sizes.items() if type(size) is not int or size < 1]:
        raise RunError(f"the student cannot have {' and '.join(wrong)}", "copy its config.json again")


def _head_sizes(
    config: Mapping[str, Any] | None, weights: StoredWeights, kind: PolicyKind, preset: Preset
) -> dict[str, int]:
    """Components and width of the log-std network, as the config states them, or else as the tensors show them."""
    family = family_of(preset.teacher.family)
    try:
        if config is not None and is_ours(config):
            if kind.published.class_prefix is not None:
                return {fact: config[field] for fact, (field, _) in kind.published.sizes.items()}
            # Tokens go in and come out as wide as a patch, N times over; latents that are no tokens have no patches.
            side = config.get("patch_size", 1)
            positions = side**2 if isinstance(side, int) else 1
            given, taken = config[family.output_field], config[family.input_field]
            # A network of diffusers that says nothing of what it gives gives what it takes.
            given = taken if given is None else given
            _refuse_no_sizes({family.output_field: given, family.input_field: taken})
            return {"components": given * positions // taken}
        model = base_outline(preset.teacher)
        start, network = next(iter(family.networks(model).items()))
        site = family.head_site(network)
        projection, rows = site.projection, outputs_of(site.predicting(network.get_submodule(site.projection)))
        if kind.published.class_prefix is None:
            return {"components": weights.shapes[f"{start}{projection}.weight"][0] // rows}
        found = {fact: weights.shapes[start + tensor][0] for fact, (_, tensor) in kind.published.sizes.items()}
        return found | {"components": found["components"] // rows}
    except KeyError as error:
        raise RunError(
            f"{weights.path} does not fit a student of {preset.name}: {error} is missing", "copy it again"
        ) from error


def published_names(student: Student) -> dict[str, str]:
    """Our state-dict names of the head → its published ones; those of each network begin as its own names do."""
    named = {}
    for start, network in student.family.networks(root(student.model)).items():
        path = student.family.head_site(network).projection
        names = student.model.get_submodule(start + path).published_names(path)
        named |= {f"{start}{path}.{own}": start + published for own, published in names.items()}
    return named
