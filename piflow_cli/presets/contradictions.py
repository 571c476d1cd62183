"""Values of a preset that are allowed one by one and exclude each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from piflow_cli.core.policies.kinds import policy_kind
from piflow_cli.core.segments import segment_length
from piflow_cli.presets.choices import BITSANDBYTES
from piflow_cli.presets.families import CLASS, TEXT, conditioning_of
from piflow_cli.presets.schema import (
    DATA_SOURCES,
    TOLD_A_TEXT,
    WITHOUT_PICTURES,
    AdapterSection,
    DataSection,
    OptimisationSection,
    PolicySection,
    TeacherSection,
)

FEW = 4


def contradictions(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The dotted key and the fault of every pair of values that exclude each other, among sections that are valid."""
    teacher, policy = sections.get("teacher"), sections.get("policy")
    imitation, optimisation = sections.get("imitation"), sections.get("optimisation")
    if teacher is not None:
        low, high = teacher.guidance_interval
        if low > high:
            yield "teacher.guidance_interval", f"must run from low to high sigma, not from {low:g} to {high:g}"
    if optimisation is not None:
        yield from _optimisation_contradictions(optimisation)
    if (adapter := sections.get("adapter")) is not None:
        yield from _offload_contradictions(adapter, optimisation)
    data = sections.get("data")
    if data is not None:
        yield from _data_contradictions(data, teacher)
    if data is not None and imitation is not None and imitation.data_free is False and data.source in WITHOUT_PICTURES:
        yield (
            "imitation.data_free",
            f"is false, and {data.source} bring no pictures to add noise to; in their place give some: --data SOURCE",
        )
    # Rows of policies import torch, which takes a second: only a policy of few parts is worth that.
    if (
        policy is not None
        and policy.components < FEW
        and policy.components < (fewest := policy_kind(policy.kind).fewest)
    ):
        yield "policy.components", f"must be at least {fewest} for a {policy.kind} policy"
    if policy is not None and imitation is not None:
        longest = segment_substeps(policy)
        if imitation.window > longest:
            yield (
                "imitation.window",
                (
                    f"is {imitation.window} substeps, longer than a segment, which has {longest} "
                    f"(policy.nfe {policy.nfe}, policy.substeps {policy.substeps})"
                ),
            )


def _offload_contradictions(
    adapter: AdapterSection, optimisation: OptimisationSection | None
) -> Iterator[tuple[str, str]]:
    if not adapter.offload_base:
        return
    if adapter.base_precision in BITSANDBYTES:
        yield "adapter.offload_base", f"excludes adapter.base_precision {adapter.base_precision}; take fp8 or bf16"
    if optimisation is not None and not optimisation.gradient_checkpointing:
        yield (
            "adapter.offload_base",
            "needs optimisation.gradient_checkpointing: else the backward pass holds all the weights",
        )


def segment_substeps(policy: PolicySection) -> int:
    """Substeps of the longest segment, at least 1."""
    return max(1, round(policy.substeps * segment_length(policy.nfe, policy.final_step_scale)))


def _data_contradictions(data: DataSection, teacher: TeacherSection | None) -> Iterator[tuple[str, str]]:
    given = [name for name in DATA_SOURCES if getattr(data, name) is not None]
    wanted = None if teacher is None else conditioning_of(teacher.family)
    misplaced = [name for name in given if wanted not in (None, TEXT if name in TOLD_A_TEXT else CLASS)]
    if misplaced:
        other = CLASS if wanted == TEXT else TEXT
        what = f"is for teachers that are told a {other}, and this one is told a {wanted}; leave it out"
        yield f"data.{misplaced[0]}", what
        return
    for name in given[1:]:
        yield f"data.{name}", f"excludes data.{given[0]}; give one of them"
    if data.resolution is not None and data.sizes:
        yield "data.sizes", "excludes data.resolution; give one of them"
    if data.resolution is None and not data.sizes and set(TOLD_A_TEXT) & set(given):
        yield "data.resolution", f"is missing: data.{given[0]} needs the pictures' side in pixels, or data.sizes"


def _optimisation_contradictions(optimisation: OptimisationSection) -> Iterator[tuple[str, str]]:
    size = optimisation.device_batch_size
    if size is not None and size > optimisation.batch_size:
        yield (
            "optimisation.device_batch_size",
            f"is {size} and must not exceed optimisation.batch_size, {optimisation.batch_size}",
        )
