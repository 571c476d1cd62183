"""Values of a preset that are allowed one by one and exclude each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from piflow_cli.core.policies.kinds import policy_kind
from piflow_cli.core.segments import segment_length
from piflow_cli.presets.choices import BITSANDBYTES
from piflow_cli.presets.families import (
    CLASS,
    INPUT,
    TEXT,
    conditioning_of,
    frame_step_of,
    frames_near,
    guided_by,
    renormalised_by,
    shown_a_picture,
)
from piflow_cli.presets.faults import Contradiction, Mend
from piflow_cli.presets.schema import (
    DATA_SOURCES,
    TOLD_A_TEXT,
    WITHOUT_PICTURES,
    AdapterSection,
    DataSection,
    ImitationSection,
    OptimisationSection,
    PolicySection,
    TeacherSection,
)
from piflow_cli.presets.two_networks import of_two_networks

FEW = 4
PLAIN, EMBEDDED, RENORMALISED = "plain", "embedded", "renormalised"
USUAL_SIDE = 1024  # pixels, as all the shipped presets of texts have it
USUAL_FRAMES = 80  # and one more, as the stock pipelines of videos have it


def contradictions(sections: Mapping[str, Any]) -> Iterator[Contradiction]:
    """Every pair of values that exclude each other, among sections that are valid.

    What is wrong continues the name of the key.
    """
    teacher, policy = sections.get("teacher"), sections.get("policy")
    imitation, optimisation = sections.get("imitation"), sections.get("optimisation")
    if teacher is not None:
        yield from _teacher_contradictions(teacher)
        yield from _lora_contradictions(teacher, sections.get("adapter"))
    if optimisation is not None:
        yield from _optimisation_contradictions(optimisation)
    if (adapter := sections.get("adapter")) is not None:
        yield from _offload_contradictions(adapter, optimisation)
    data = sections.get("data")
    if data is not None:
        yield from _data_contradictions(data, teacher)
        if teacher is not None:
            yield from _frame_contradictions(data, teacher)
    if data is not None and imitation is not None and imitation.data_free is False and data.source in WITHOUT_PICTURES:
        yield Contradiction(
            "imitation.data_free",
            f"is false, and {data.source} bring no pictures to add noise to; in their place give some: --data SOURCE",
            (Mend("imitation.data_free", True),),
        )
    if data is not None and imitation is not None:
        yield from _distance_contradictions(data, imitation)
    # Rows of policies import torch, which takes a second: only a policy of few parts is worth that.
    if (
        policy is not None
        and policy.components < FEW
        and policy.components < (fewest := policy_kind(policy.kind).fewest)
    ):
        yield Contradiction(
            "policy.components",
            f"must be at least {fewest} for a {policy.kind} policy",
            (Mend("policy.components", fewest),),
            ("policy.kind",),
        )
    if policy is not None and imitation is not None:
        yield from _window_contradictions(policy, imitation)
    if teacher is not None:
        yield from of_two_networks(teacher, sections)


def _teacher_contradictions(teacher: TeacherSection) -> Iterator[Contradiction]:
    low, high = teacher.guidance_interval
    if low > high:
        key = "teacher.guidance_interval"
        what = f"must run from low to high sigma, not from {low:g} to {high:g}"
        yield Contradiction(key, what, (Mend(key, [high, low]),))
    guided, mode = guided_by(teacher.family), teacher.guidance_mode
    # Without guidance either is the same.
    if guided is not None and teacher.guidance != 1 and (guided == INPUT) != (mode == EMBEDDED):
        key = "teacher.guidance_mode"
        has = "are told the scale as an input" if guided == INPUT else "have no input for the scale"
        right = EMBEDDED if guided == INPUT else PLAIN
        what = f"is {mode}, and networks of the family {teacher.family} {has}: give {right}"
        yield Contradiction(key, what, (Mend(key, right),), ("teacher.family",))
    elif mode == RENORMALISED and renormalised_by(teacher.family) is None:
        key = "teacher.guidance_mode"
        what = f"is {mode}, and the family {teacher.family} has no pipeline that renormalises: give {PLAIN}"
        yield Contradiction(key, what, (Mend(key, PLAIN),), ("teacher.family",))


def _lora_contradictions(teacher: TeacherSection, adapter: AdapterSection | None) -> Iterator[Contradiction]:
    if not teacher.loras:
        return
    key = "teacher.loras"
    if conditioning_of(teacher.family) == CLASS:
        yield Contradiction(key, "is for teachers that are told a text, and this one is told a class")
    elif adapter is None:
        yield Contradiction(key, "needs adapters: a student that is trained in full leaves no base to fuse into")
    elif adapter.base_precision in BITSANDBYTES:
        yield Contradiction(
            key,
            f"excludes adapter.base_precision {adapter.base_precision}, in which nothing is fused; take fp8 or bf16",
            (Mend("adapter.base_precision", "fp8"),),
            ("adapter.base_precision",),
        )


def _window_contradictions(policy: PolicySection, imitation: ImitationSection) -> Iterator[Contradiction]:
    longest = segment_substeps(policy)
    if imitation.window > longest:
        yield Contradiction(
            "imitation.window",
            (
                f"is {imitation.window} substeps, longer than a segment, which has {longest} "
                f"(policy.nfe {policy.nfe}, policy.substeps {policy.substeps})"
            ),
            (Mend("imitation.window", longest),),
            ("policy.nfe", "policy.substeps", "policy.final_step_scale"),
        )


def _distance_contradictions(data: DataSection, imitation: ImitationSection) -> Iterator[Contradiction]:
    for name in imitation.distances:
        setting = f"imitation.{name}"
        if data.source in WITHOUT_PICTURES:
            why = f"is a distance to data, and {data.source} bring none: give 0"
            yield Contradiction(setting, why, (Mend(setting, 0),))
        elif imitation.data_free is True:
            why = "is a distance to noised data, and imitation.data_free is true: give 0"
            yield Contradiction(setting, why, (Mend(setting, 0),), ("imitation.data_free",))


def _offload_contradictions(
    adapter: AdapterSection, optimisation: OptimisationSection | None
) -> Iterator[Contradiction]:
    if not adapter.offload_base:
        return
    if adapter.base_precision in BITSANDBYTES:
        yield Contradiction(
            "adapter.offload_base",
            f"excludes adapter.base_precision {adapter.base_precision}; take fp8 or bf16",
            (Mend("adapter.base_precision", "fp8"),),
            ("adapter.base_precision",),
        )
    if optimisation is not None and not optimisation.gradient_checkpointing:
        yield Contradiction(
            "adapter.offload_base",
            "needs optimisation.gradient_checkpointing: else the backward pass holds all the weights",
            (Mend("optimisation.gradient_checkpointing", True),),
            ("optimisation.gradient_checkpointing",),
        )


def segment_substeps(policy: PolicySection) -> int:
    """Substeps of the longest segment, at least 1."""
    return max(1, round(policy.substeps * segment_length(policy.nfe, policy.final_step_scale)))


def _data_contradictions(data: DataSection, teacher: TeacherSection | None) -> Iterator[Contradiction]:
    given = [name for name in DATA_SOURCES if getattr(data, name) is not None]
    wanted = None if teacher is None else conditioning_of(teacher.family)
    misplaced = [name for name in given if wanted not in (None, TEXT if name in TOLD_A_TEXT else CLASS)]
    if misplaced:
        other = CLASS if wanted == TEXT else TEXT
        what = f"is for teachers that are told a {other}, and this one is told a {wanted}; leave it out"
        yield Contradiction(f"data.{misplaced[0]}", what, causes=("teacher.family",))
        return
    if teacher is not None and data.prompts is not None and shown_a_picture(teacher.family):
        yield Contradiction(
            "data.prompts",
            "is for teachers that are told a text alone, and this one is shown a reference picture too; in their"
            " place give both: --data FOLDER",
            causes=("teacher.family",),
        )
        return
    for name in given[1:]:
        yield Contradiction(f"data.{name}", f"excludes data.{given[0]}; give one of them", causes=(f"data.{given[0]}",))
    if data.resolution is not None and data.sizes:
        yield Contradiction("data.sizes", "excludes data.resolution; give one of them", causes=("data.resolution",))
    if data.resolution is None and not data.sizes and set(TOLD_A_TEXT) & set(given):
        yield Contradiction(
            "data.resolution",
            f"is missing: data.{given[0]} needs the pictures' side in pixels, or data.sizes",
            (Mend("data.resolution", USUAL_SIDE),),
            (f"data.{given[0]}",),
        )


def _frame_contradictions(data: DataSection, teacher: TeacherSection) -> Iterator[Contradiction]:
    key, causes, step = "data.frames", ("teacher.family",), frame_step_of(teacher.family)
    if step is None:
        if data.frames is not None:
            what = f"is {data.frames}, and teachers of the family {teacher.family} make pictures: give null"
            yield Contradiction(key, what, (Mend(key, None),), causes)
        return
    if data.frames is None:
        usual = USUAL_FRAMES // step * step + 1
        what = f"is missing: teachers of the family {teacher.family} make videos of {step} n + 1 frames"
        yield Contradiction(key, what, (Mend(key, usual),), causes)
    elif (frames := data.frames) not in (near := frames_near(frames, step)):
        what = (
            f"is {frames}, and teachers of the family {teacher.family} make videos of {step} n + 1 frames: give"
            f" {' or '.join(map(str, near))}"
        )
        yield Contradiction(key, what, (Mend(key, min(near, key=lambda other: abs(other - frames))),), causes)


def _optimisation_contradictions(optimisation: OptimisationSection) -> Iterator[Contradiction]:
    size = optimisation.device_batch_size
    if size is not None and size > optimisation.batch_size:
        key = "optimisation.device_batch_size"
        yield Contradiction(
            key,
            f"is {size} and must not exceed optimisation.batch_size, {optimisation.batch_size}",
            (Mend(key, optimisation.batch_size),),
            ("optimisation.batch_size",),
        )
