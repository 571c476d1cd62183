"""How the processes of a run share its weights: each holds all of them (DDP), or each a part (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.tensors import whole
from ..teachers.network_pair import NetworkPair

DDP, FSDP2, AUTO = "ddp", "fsdp2", "auto"


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


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks, in order of the model's attributes; of two networks, those of both.

    They are what stands in a list. Dicts have embedders too: what stands there is a block by ``_no_split_modules``.
    """
    networks = model.networks if isinstance(model, NetworkPair) else (model,)
    return [block for network in networks for child in network.children() for block in _blocks_in(child, network)]


def _blocks_in(held: nn.Module, network: nn.Module) -> Iterator[nn.Module]:
    if isinstance(held, nn.ModuleList):
        yield from held
    elif isinstance(held, nn.ModuleDict):
        for part in held.values():
            if isinstance(part, nn.ModuleList | nn.ModuleDict):
                yield from _blocks_in(part, network)
            elif type(part).__name__ in (getattr(network, "_no_split_modules", None) or ()):
                yield part


def exchange_all(model: nn.Module, trained: Iterable[nn.Parameter]) -> None:
    """Let the gradients of all that is ``trained`` in ``model`` be there when processes exchange them (DDP).

    A backward pass reaches one of two networks, and DDP waits for both.
    """
    if isinstance(model, NetworkPair):
        model.reach(trained)


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
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def clip_shards(parameters: list[nn.Parameter], largest: float | None) -> Tensor:
    """The norm of sharded gradients over all processes; they are scaled down to ``largest`` where that is given."""
    norm = whole(nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None]))
    if largest is not None:
        nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm
