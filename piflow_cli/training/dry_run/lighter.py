"""What to type where a run takes more memory than there is: the first change of its settings that fits, by estimate."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ...errors import UsageError
from ...teachers import family_of
from ..settings import batch_plan, least_device_batch
from .outline import Outline, outline_of, peak_of
from .room import Memory
from .sharing import unshareable

if TYPE_CHECKING:
    from ...presets.schema import Preset

NONE = "no setting makes it fit, take a smaller teacher, or a device with more memory"


def lighter(outline: Outline, processes: int, device: torch.device, memory: Memory) -> str:
    """What to type, with the memory that a run takes then: more processes, or changes on top of each other.

    Settings that cost time alone come first. The optimiser of the outline's preset is the one that the run gets.
    """
    preset = outline.preset
    gpus = torch.cuda.device_count() if device.type == "cuda" else 1
    if gpus > processes and unshareable(preset) is None and _divides(preset, gpus):
        peak = peak_of(outline, gpus, sharded=True)
        if memory.holds(peak):
            return f"type --num-processes {gpus} --parallel fsdp2, which takes {peak} on each GPU"
    typed: dict[str, str] = {}
    for option, value, changed in _changes(preset, processes, device):
        typed[option] = value
        outline = _with(outline, changed)
        peak = peak_of(outline, processes)
        if memory.holds(peak):
            return f"type {' '.join(f'{name}{given}' for name, given in typed.items())}, which takes {peak}"
    return NONE


def _divides(preset: Preset, processes: int) -> bool:
    """Whether the batch of ``preset`` can be shared by so many processes."""
    try:
        batch_plan(preset, processes)
    except UsageError:
        return False
    return True


def _with(outline: Outline, preset: Preset) -> Outline:
    """The outline of another ``preset``; where its base is stored alike, the models are the same."""
    before, after = outline.preset.adapter, preset.adapter
    if before is None or after is None or before.base_precision == after.base_precision:
        return replace(outline, preset=preset)
    return outline_of(preset, family_of(preset.teacher.family, preset.teacher.guidance))


def _changes(preset: Preset, processes: int, device: torch.device) -> Iterator[tuple[str, str, Preset]]:
    """An option and its value, and the preset under it and those before it."""
    now = preset
    if not now.optimisation.gradient_checkpointing:
        now = replace(now, optimisation=replace(now.optimisation, gradient_checkpointing=True))
        yield "--set optimisation.gradient_checkpointing=", "true", now
    if now.imitation.states > 1 and now.imitation.states_per_query != 1:
        now = replace(now, imitation=replace(now.imitation, states_per_query=1))
        yield "--set imitation.states_per_query=", "1", now
    batch = batch_plan(now, processes).device_batch
    while batch > 1:
        batch = batch // 2 if batch % 2 == 0 else 1
        if batch < least_device_batch(now):
            break
        now = replace(now, optimisation=replace(now.optimisation, device_batch_size=batch))
        yield "--set optimisation.device_batch_size=", str(batch), now
    adapter = now.adapter
    if adapter is None:
        return
    packs = device.type == "cuda" and importlib.util.find_spec("bitsandbytes") is not None
    fewer = "nf4" if packs else "fp8"
    if adapter.base_precision in ("fp32", "bf16") or (packs and adapter.base_precision == "fp8"):
        adapter = replace(adapter, base_precision=fewer)
        now = replace(now, adapter=adapter)
        yield "--base-precision ", fewer, now
    if device.type == "cuda" and not adapter.offload_base:
        now = replace(now, adapter=replace(adapter, offload_base=True))
        yield "--offload-base", "", now
