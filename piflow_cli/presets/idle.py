"""Settings that would change nothing, keys of a preset and options alike; whoever gives one is told so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from piflow_cli.console import plain
from piflow_cli.core.policies.kinds import policy_class, policy_kind
from piflow_cli.presets.families import CLASS, TEXT, conditioning_of
from piflow_cli.presets.faults import Fault, Mend
from piflow_cli.presets.layers import Layer
from piflow_cli.presets.places import PROMPT_FILES
from piflow_cli.presets.schema import SECTIONS, Preset

BUDGET = "optimisation.budget"
Reason = Callable[[Preset], str | None]
"""Why a key does nothing under a preset; None where it does something."""


def _unless_of_policy(key: str) -> Reason:
    """The fault of a key that only some policies use."""
    return lambda preset: (
        None if key in policy_kind(preset.policy.kind).settings else f"does nothing to a {preset.policy.kind} policy"
    )


def _at_one_evaluation(preset: Preset) -> str | None:
    return "does nothing at policy.nfe 1: the last segment is the only one" if preset.policy.nfe == 1 else None


def _without_guidance(preset: Preset) -> str | None:
    return "does nothing at teacher.guidance 1, which is none" if preset.teacher.guidance == 1 else None


def _without_halves(preset: Preset) -> str | None:
    if preset.teacher.guidance_mode != "embedded":
        return _without_guidance(preset)
    return "does nothing at teacher.guidance_mode embedded: the network is told the scale at all noise levels"


def _without_components(preset: Preset) -> str | None:
    if preset.imitation.dropout == 0 or "imitation.dropout" in policy_kind(preset.policy.kind).settings:
        return None
    return f"is of components, which a {preset.policy.kind} policy does not mix: give 0"


def _without_texts(preset: Preset) -> str | None:
    return (
        "is for teachers that are told a text, and this one is told a class"
        if conditioning_of(preset.teacher.family) == CLASS
        else None
    )


def _without_classes(preset: Preset) -> str | None:
    told = conditioning_of(preset.teacher.family) == TEXT
    return "does nothing: the VAE of a teacher that is told a text is the one in its base" if told else None


def _without_encoding(preset: Preset) -> str | None:
    pixels = conditioning_of(preset.teacher.family) == CLASS and preset.teacher.vae is None
    return "does nothing: nothing is encoded for a teacher of classes and pixels" if pixels else None


def _without_columns(preset: Preset) -> str | None:
    lines = str(preset.data.prompts).lower().endswith(".txt")
    return "does nothing: a .txt file has no columns" if lines else _without_texts(preset)


def _without_captions(preset: Preset) -> str | None:
    alone = preset.data.prompts is not None
    return "does nothing: data.prompts bring no pictures" if alone else _without_texts(preset)


def _without_splits(preset: Preset) -> str | None:
    alone = str(preset.data.prompts).lower().endswith(PROMPT_FILES)
    return "does nothing: a file has no splits, as data sets of the Hub have" if alone else _without_texts(preset)


def _beside_sizes(preset: Preset) -> str | None:
    named = "does nothing beside data.sizes, which are the buckets themselves"
    return named if preset.data.sizes else _without_texts(preset)


def _under_a_budget(preset: Preset) -> str | None:
    budget = preset.optimisation.budget
    return None if budget is None else f"excludes --budget {budget}, which sets it: give one of them"


IDLE: dict[str, Reason] = {
    **{
        key: _unless_of_policy(key)
        for key in ("policy.temperature", "policy.logstd_width", "optimisation.gamma_learning_rate")
    },
    "policy.final_step_scale": _at_one_evaluation,
    "teacher.guidance_interval": _without_halves,
    "teacher.guidance_mode": _without_guidance,
    "teacher.vae": _without_classes,
    "imitation.dropout": _without_components,
    "data.offload_text_encoder": _without_texts,
    "data.limit": _without_texts,
    "data.resolution": _without_texts,
    "data.sizes": _without_texts,
    "data.cache": _without_encoding,
    "data.aspect_ratio": _beside_sizes,
    "data.text_column": _without_columns,
    "data.image_column": _without_captions,
    "data.split": _without_splits,
    "optimisation.iterations": _under_a_budget,
    "optimisation.schedule": _under_a_budget,
}


def changed(layer: Layer, values: Mapping[str, Any]) -> Layer:
    """The part of ``layer`` that differs from ``values`` below it, or from the schema's defaults."""
    kept = {}
    for section, own in layer.values.items():
        if isinstance(own, Mapping) and section in SECTIONS:
            below = _defaults(SECTIONS[section]) | dict(values.get(section) or {})
            own = {name: value for name, value in own.items() if name not in below or value != below[name]}
        kept[section] = own
    return Layer(layer.source, kept)


def _defaults(section: type[Any]) -> dict[str, Any]:
    return {field.name: plain(field.default) for field in fields(section) if field.default is not MISSING}


def idle_faults(preset: Preset, given: Sequence[Layer]) -> Iterator[Fault]:
    """A fault for every key that does nothing, in the layers ``given`` beside the preset's own file."""
    for layer in given:
        for key, reason in IDLE.items():
            section, _, name = key.partition(".")
            values = layer.values.get(section)
            if isinstance(values, dict) and name in values and (what := reason(preset)) is not None:
                yield Fault(layer.place(key), key, what, _mends(key, given))


def _mends(key: str, given: Sequence[Layer]) -> tuple[Mend, ...]:
    """What to type for a key that does nothing, where leaving it out is not all that there is to do."""
    if key == "imitation.dropout":
        return (Mend(key, 0),)
    # Whoever types a budget can leave it out; one in a file has to be taken back.
    if IDLE[key] is _under_a_budget and not any(_typed(layer, BUDGET) for layer in given):
        return (Mend(BUDGET, None),)
    return ()


def _typed(layer: Layer, key: str) -> bool:
    section, _, name = key.partition(".")
    values = layer.values.get(section)
    return isinstance(values, Mapping) and name in values and layer.place(key).startswith("--")


def idle_options(
    policy: str, evaluations: int, substeps: int | None, temperature: float | str | None, stochastic: float = 0.0
) -> list[str]:
    """A line for every given option of sampling that does nothing to a student of this ``policy``."""
    lines = []
    if temperature is not None and "policy.temperature" not in policy_kind(policy).settings:
        lines.append(f"--temperature is for mixtures: on a {policy} policy it has no effect")
    elif temperature is not None and evaluations == 1:
        lines.append("--temperature has no effect on the last evaluation, and there is no other")
    if stochastic > 0 and evaluations == 1:
        lines.append("--stochastic puts noise back between two evaluations, and there is one: it has no effect")
    if substeps is not None and policy_class(policy).exact:
        lines.append(f"--substeps: a {policy} policy is followed exactly, and takes none")
    return lines
