"""Checks that the files of a student agree where they say the same twice.

They are its facts, its ``policy_config``, the fields of its config, and the config of a shipped teacher.

Digests tell that files are as they were saved, and old files and those of other tools have none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import RunError
from ..presets.resolve import available, load
from ..weights.locate import CONFIGS, SHIPPED_PREFIX, locate, network_folder
from ..weights.stored import StoredWeights
from ..wording import few
from .adapter_configs import GRID, OTHER_CONFIG, is_widened, policy_config, widened_config
from .adapter_digests import CONFIG_DIGEST
from .facts import StudentFacts, has_facts
from .locate import CONFIG_NAME
from .published import told_policy
from .student import Student

POLICY_KEYS = ("type", "mode", "segment_size", "shift")
CLASS = "_class_name"
CLOSE = 1e-6  # relative: numbers of metadata went through decimal digits


def check_policy(weights: StoredWeights, facts: StudentFacts, say: Callable[[str], None]) -> None:
    """Raise RunError where the ``policy_config`` of ``weights`` contradicts ``facts``.

    ``say`` takes a line on entries that nobody knows. What is not there says nothing.
    """
    told, ours = told_policy(weights), {"mode": GRID, **policy_config(facts)}
    wrong = [
        f"{key} {told[key]!r}"
        for key in POLICY_KEYS
        if key in told and not (key in ours and _same(told[key], ours[key]))
    ]
    if wrong:
        raise RunError(
            f"{weights.path} is of a {facts.policy} policy by its facts, and its policy_config says"
            f" {few(wrong)}; it should be {json.dumps(policy_config(facts))}",
            "copy it again, or distil again",
        )
    if unknown := sorted(told.keys() - set(POLICY_KEYS)):
        say(f"{weights.path}: its policy_config says {few(unknown)}, which piflow does not know and leaves out")


def check_config(
    config: Mapping[str, Any] | None, student: Student, weights: StoredWeights, say: Callable[[str], None]
) -> None:
    """Raise RunError where ``config`` contradicts the student.

    About the policy it must agree with the facts and the network, and about the network with a shipped teacher's
    config.

    ``say`` takes a line on what is not used, and on what no tensor shows and no teacher tells, where it is unusual.
    Students from elsewhere have class names of their own.
    """
    if config is None:
        return
    ours, own = widened_config(student), has_facts(weights)
    head = (CLASS, student.family.output_field)
    told = {key: value for key, value in config.items() if is_widened(key) or (own and key in head)}
    wrong = {key: value for key, value in told.items() if key in ours and not _same(value, ours[key])}
    idle = {key: value for key, value in told.items() if key not in ours}
    whose = f"a {student.facts.policy} student of {student.facts.components}"
    _refuse(wrong | idle if own else wrong, ours, whose)
    if idle:
        say(f"{CONFIG_NAME} says {few(sorted(idle))}, which {whose} has no use for")
    if own:
        _check_network(config, student, say if CONFIG_DIGEST not in weights.metadata else lambda line: None)


def _check_network(config: Mapping[str, Any], student: Student, say: Callable[[str], None]) -> None:
    teacher = _shipped_config(student.facts)
    # What the head has changed is held against the student, not against its teacher.
    head = student.family.output_field
    shared = sorted(key for key in teacher.keys() & config.keys() - {head} if not key.startswith("_"))
    wrong = {key: config[key] for key in shared if not _same(config[key], teacher[key])}
    _refuse(wrong, teacher, f"a student of {student.facts.teacher}")
    for key, usual in student.family.usual_fields.items():
        if key in config and key not in teacher and config[key] not in usual:
            names = " or ".join(f"{value:g}" for value in usual)
            say(f"{CONFIG_NAME} says {key} {config[key]:g}; released networks have {names}, and no tensor shows it")


def _refuse(wrong: Mapping[str, Any], right: Mapping[str, Any], whose: str) -> None:
    if wrong:
        said = [
            f"{key} {value!r}" + (f" (it is {right[key]!r})" if key in right else " (it has none)")
            for key, value in wrong.items()
        ]
        raise RunError(f"{CONFIG_NAME} is not that of {whose}: it says {few(said)}", OTHER_CONFIG)


def _shipped_config(facts: StudentFacts) -> Mapping[str, Any]:
    """The config of the student's teacher, where piflow ships it; else an empty one."""
    if facts.teacher not in available() or (teacher := load(facts.teacher).teacher).base != facts.base:
        return {}
    place = teacher.base if teacher.config is None else teacher.config
    if not place.startswith(SHIPPED_PREFIX):
        return {}
    folder = network_folder(locate(place, only=CONFIGS))
    return json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool) or not isinstance(one, int | float):
        return type(one) is type(other) and one == other
    return isinstance(other, int | float) and math.isclose(one, other, rel_tol=CLOSE)
