"""How the processes of a run share its weights: each holds all of them (DDP), or each a part (FSDP2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..core.tensors import whole
from ..errors import UsageError
from .dry_run.memory import Bytes

if TYPE_CHECKING:
    from ..presets.schema import Preset

DDP, FSDP2, AUTO = "ddp", "fsdp2", "auto"
# Of a GPU's memory; the rest is for the driver, cuBLAS and fragments.
USABLE = 0.9


@dataclass(frozen=True)
class Parallel:
    """The way that was taken, ``ddp`` or ``fsdp2``, and the reason in words."""

    way: str
    reason: str

    @property
    def sharded(self) -> bool:
        return self.way == FSDP2

    def __str__(self) -> str:
        return f"{self.way}: {self.reason}"


def choose_parallel(asked: str, preset: Preset, processes: int, device: torch.device) -> Parallel:
    """The way of a run; ``auto`` takes FSDP2 where all weights on each GPU would not fit, and DDP otherwise.

    Raises UsageError for FSDP2 on one process, and over a base that cannot be shared out.
    """
    refused = _refused(preset)
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
    needed, there = _needed(preset, processes), torch.cuda.get_device_properties(device).total_memory
    compared = f"{needed} on each GPU, which has {Bytes(there)}"
    return Parallel(FSDP2 if needed > USABLE * there else DDP, f"all weights would take {compared}")


def _refused(preset: Preset) -> str | None:
    """Why the weights of a preset cannot be shared out; None where they can."""
    adapter = preset.adapter
    if adapter is None:
        return None
    if adapter.offload_base:
        return "an offloaded base lies in host memory"
    if adapter.base_precision not in ("fp32", "bf16"):
        return f"a base in {adapter.base_precision} cannot be shared out, one in bf16 can"
    return None


def _needed(preset: Preset, processes: int) -> Bytes:
    from ..teachers import family_of
    from .dry_run.outline import memory_of, outline_of
    from .settings import batch_plan

    outline = outline_of(preset, family_of(preset.teacher.family, preset.teacher.guidance))
    return memory_of(outline, batch_plan(preset, processes).device_batch, processes).peak


def shard(model: nn.Module, device: torch.device) -> None:
    """Share the parameters of ``model`` out among the processes, in place (FSDP2, ``torch.distributed.fsdp``).

    Each transformer block is gathered while it computes, and what is outside of blocks with the root. There is no
    policy of precision: frozen weights are in the dtype of the base already, what is trained is float32, and autocast
    casts it, so that the numbers are those of DDP. Blocks go first, and from the CPU: no GPU ever holds more of the
    whole than a block.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            for block in child:
                fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def clip_shards(parameters: list[nn.Parameter], largest: float | None) -> Tensor:
    """The norm of sharded gradients over all processes; they are scaled down to ``largest`` where that is given."""
    norm = whole(nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None]))
    if largest is not None:
        nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm
