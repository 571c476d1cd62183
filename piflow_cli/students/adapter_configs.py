"""The config.json of an adapter: the base's own, with the fields of the head as the published classes have them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..core.policies.kinds import policy_kind, policy_kinds
from ..errors import RunError, UsageError, first_line
from ..presets.resolve import load
from ..teachers.base import Network, TeacherFamily
from ..teachers.folders import on_base
from ..teachers.text_to_image import TextToImageFamily
from ..weights.stored import StoredWeights
from .facts import StudentFacts
from .locate import CONFIG_NAME
from .published import base_outline, class_of_base
from .shared_base import root
from .student import Student, unloaded_student

GRID = "grid"  # the mode that metadata leave unsaid
# Fields about the base's files on the training machine, and not about the model.
OF_FILES = ("_name_or_path", "_use_default_values", "quantization_config")
OTHER_BASE = "use the base it was trained on: --base PATH"
OTHER_CONFIG = f"use the {CONFIG_NAME} that was saved with these weights, or distil again"


def check_architecture(config: Mapping[str, Any], model: Network, family: TeacherFamily) -> None:
    """Raise UsageError where adapter and base differ in a field that both have."""
    widened = {*_widened_fields(), *family.config_not_published, family.output_field, *family.unread_fields}
    for key in sorted(config.keys() - widened):
        theirs = model.config.get(key, config[key])
        if not key.startswith("_") and _plain(theirs) != _plain(config[key]):
            raise UsageError(
                f"the adapter was trained on a base with {key} {config[key]}, and this one has {_plain(theirs)}",
                OTHER_BASE,
            )


def refuse_unknown(config: Mapping[str, Any], kind: type[nn.Module], family: TeacherFamily) -> None:
    """Raise RunError for fields that a model of the class ``kind``, of ``family``, does not use.

    A config of another class passes.
    """
    if class_of_base(config) != kind.__name__:
        return
    told = {family.output_field, *family.unread_fields}
    known = {*inspect.signature(kind.__init__).parameters, *_widened_fields(), *OF_FILES, *told}
    if unknown := sorted(key for key in config if key not in known and not key.startswith("_")):
        raise RunError(f"{CONFIG_NAME} says {', '.join(unknown)}, which a {kind.__name__} has no use for", OTHER_CONFIG)


def outlined_student(
    family: TeacherFamily, config: Mapping[str, Any], facts: StudentFacts, weights: StoredWeights
) -> Student:
    """A student that brings all its ``weights``, still without values.

    Raises RunError where ``config`` describes no base.
    """
    layers = config.get("num_layers", 1)
    # Every layer has weights: more of them would be made for minutes before a tensor is found missing.
    if not isinstance(layers, int) or not 0 <= layers <= len(weights.shapes):
        raise RunError(
            f"{CONFIG_NAME} says num_layers {layers!r}, and there are {len(weights.shapes)} tensors", OTHER_CONFIG
        )
    try:
        return unloaded_student(family, dict(config), facts)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise RunError(
            f"{CONFIG_NAME} describes no {family.model_name}: {first_line(error):.100}", OTHER_CONFIG
        ) from error


def is_widened(key: str) -> bool:
    """Whether configs have the field ``key`` because of a policy, and not because of their base."""
    return key in _widened_fields()


def _widened_fields() -> set[str]:
    """The fields that configs have besides their bases', of all policies."""
    return {name for kind in policy_kinds() for name in kind.published.fields(1, 1, 1)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def policy_config(facts: StudentFacts) -> dict:
    """The entry ``policy_config`` of published metadata for this policy."""
    kind = policy_kind(facts.policy)
    segment = {"segment_size": facts.segment, "shift": facts.shift} if kind.own_segment else {}
    mode = {} if kind.published.mode == GRID else {"mode": kind.published.mode}
    return {"type": kind.published.type, **segment, **mode}


def widened_config(student: Student) -> dict:
    """The base's config, widened: class name and fields as the published adapters have them."""
    facts, family, model = student.facts, student.family, root(student.model)
    config = {key: value for key, value in json.loads(model.to_json_string()).items() if key not in OF_FILES}
    site = family.head_site(family.network(model))
    published = policy_kind(facts.policy).published
    if published.class_prefix is not None:
        if "patch_size" in family.config_not_published and config.get(family.output_field) is not None:
            # Without a patch size the published classes count the channels of a whole token.
            config[family.output_field] *= config["patch_size"] ** 2
        config = {key: value for key, value in config.items() if key not in family.config_not_published}
        config["_class_name"] = published.class_prefix + config["_class_name"]
        config |= published.fields(facts.components, facts.logstd_width, site.patch)
    else:
        wide = model.out_channels if site.unpatchify else facts.components * given_channels(model, family)
        config[family.output_field] = wide
    return config


def given_channels(model: Network, family: TeacherFamily) -> int:
    """The channels that a base gives; configs of some classes leave them to the class, others have them alone.

    One that says nothing, as that of FLUX.3, gives what it takes.
    """
    channels = dict(model.config).get(family.output_field)
    if channels is not None:
        return channels
    return model.out_channels if hasattr(model, "out_channels") else model.config.in_channels


def read_config(path: Path | None) -> dict[str, Any] | None:
    """The config in a file, None where there is no file; raises RunError unless it is a JSON object with a class."""
    if path is None:
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        class_of_base(config)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{path} is not the config of a model", "copy it again, or distil again") from error
    return config


def base_config(
    config: Mapping[str, Any] | None, facts: StudentFacts, teacher: str | None, family: TeacherFamily
) -> dict[str, Any]:
    """The base's config, recovered from the widened one, or from the teacher's where the student has none of ours.

    Raises RunError where what the networks give is no number.
    """
    if config is None or class_of_base(config) != family.model_name:
        section = load(facts.teacher if teacher is None else teacher).teacher
        return dict(base_outline(on_base(section, *facts.base_at())).config)
    field = family.output_field
    widened = (*_widened_fields(), field, *family.unread_fields)
    base = {key: value for key, value in config.items() if key not in widened} | {"_class_name": class_of_base(config)}
    if config.get(field) is None:
        return base
    if not isinstance(family, TextToImageFamily):
        # A head of ours leaves what the network gives besides as it is; DX, whose classes are the bases', does not.
        own = policy_kind(facts.policy).published.class_prefix is not None
        return base | ({field: config[field]} if own else {})
    if type(config[field]) is not int:
        raise RunError(
            f"{CONFIG_NAME} describes no {family.model_name}: {field} {config[field]!r} is no whole number",
            OTHER_CONFIG,
        )
    # The inverse of what widened_config() does to them.
    fields, divisor = inspect.signature(family.model_class).parameters, 1
    if policy_kind(facts.policy).published.class_prefix is None:
        divisor = facts.components
    elif "patch_size" in family.config_not_published:
        divisor = fields["patch_size"].default ** 2
    return base | ({field: config[field] // divisor} if field in fields else {})
