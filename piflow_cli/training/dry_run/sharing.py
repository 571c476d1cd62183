"""Whether processes are to share the weights of a run out, by what each of them would have to hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...errors import UsageError
from ...presets.families import boundary_of
from ...teachers import family_of
from ..optimizer import with_usable_optimizer
from ..parallel import DDP, FSDP2, Parallel
from .memory import Bytes
from .outline import outline_of, peak_of
from .room import USABLE

if TYPE_CHECKING:
    from ...presets.schema import Preset


def choose_parallel(asked: str, preset: Preset, processes: int, device: torch.device) -> Parallel:
    """The way of a run; ``auto`` takes FSDP2 where all weights on each GPU would not fit, and DDP otherwise.

    Raises UsageError for FSDP2 on one process, and over a base that cannot be shared out.
    """
    refused = unshareable(preset)
    if asked == FSDP2:
        if processes == 1:
            raise UsageError("--parallel fsdp2: one process has nobody to share weights with", "type --num-processes 2")
        if refused is not None:
            raise UsageError(f"--parallel fsdp2: {refused}", "type --parallel ddp")
        return Parallel(FSDP2, "as asked")
    if asked == DDP or processes == 1:
        return Parallel(DDP, "as asked" if asked == DDP else "one process holds everything")
    if device.type != "cuda":
        return Parallel(DDP, "processes on a CPU share its memory")
    if refused is not None:
        return Parallel(DDP, refused)
    needed, there = _needed(preset, processes, device), torch.cuda.get_device_properties(device).total_memory
    compared = f"{needed} on each GPU, which has {Bytes(there)}"
    return Parallel(FSDP2 if needed > USABLE * there else DDP, f"all weights would take {compared}")


def unshareable(preset: Preset) -> str | None:
    """Why the weights of a preset cannot be shared out; None where they can."""
    noised = preset.data.captioned is not None and not preset.data_free
    if noised and boundary_of(preset.teacher.family) is not None:
        # All processes gather a layer at once, and a batch of noised data may be of one network alone.
        return "from noised data each process would ask other ones of the teacher's two networks"
    adapter = preset.adapter
    if adapter is None:
        return None
    if adapter.offload_base:
        return "an offloaded base lies in host memory"
    if adapter.base_precision not in ("fp32", "bf16"):
        return f"a base in {adapter.base_precision} cannot be shared out, one in bf16 can"
    return None


def _needed(preset: Preset, processes: int, device: torch.device) -> Bytes:
    preset = with_usable_optimizer(preset, device)
    outline = outline_of(preset, family_of(preset.teacher.family, preset.teacher.guidance))
    return peak_of(outline, processes)
