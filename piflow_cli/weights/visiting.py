"""Frozen layers that stay in the CPU's memory, and visit a GPU while they compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn

from ..core.tensors import room_for

# torch rounds pinned memory up to a power of two: a large one that many weights share wastes little.
ROOM = 1 << 30
ALIGNMENT = 512


def visit(layers: Sequence[nn.Module], device: torch.device) -> None:
    """Keep the weights of ``layers`` in the CPU's memory, except while a layer computes on ``device``.

    A GPU fetches them from pinned memory, in the order of its own work, so that the host waits for none. Nothing is
    brought back: the layers are frozen, and what was fetched is let go of. A backward pass holds what it needs.
    """
    own = {id(value): value for layer in layers for value in layer.parameters(recurse=False)}
    homes = dict(zip(own, _homes([value.data for value in own.values()], device), strict=True))
    for layer in layers:
        pairs = [(value, homes[id(value)]) for value in layer.parameters(recurse=False)]
        _leave(pairs)()
        layer.register_forward_pre_hook(_fetch(pairs, device))
        # After an error too, or the weights would never leave.
        layer.register_forward_hook(_leave(pairs), always_call=True)


def _fetch(pairs: Sequence[tuple[nn.Parameter, Tensor]], device: torch.device) -> Callable[..., None]:
    def fetch(*call: object) -> None:
        for value, home in pairs:
            value.data = home.to(device, non_blocking=True, copy=True)

    return fetch


def _leave(pairs: Sequence[tuple[nn.Parameter, Tensor]]) -> Callable[..., None]:
    def leave(*call: object) -> None:
        for value, home in pairs:
            value.data = home

    return leave


def _homes(values: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copies of ``values`` in the CPU's memory, which is pinned for a GPU."""
    if device.type != "cuda":
        return [value.cpu() for value in values]
    left, room, homes = sum(map(_size, values)), torch.empty(0, dtype=torch.uint8), []
    for value in values:
        size = _size(value)
        if size > len(room):
            room = torch.empty(max(size, min(ROOM, left)), dtype=torch.uint8, pin_memory=True)
        homes.append(room_for(value, room).copy_(value))
        room, left = room[size:], left - size
    return homes


def _size(value: Tensor) -> int:
    """Bytes of ``value``, up to where another may begin."""
    return -(-prod(value.shape) * value.itemsize // ALIGNMENT) * ALIGNMENT
