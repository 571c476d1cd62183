"""Small tensor helpers that the rooms of the core share."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import accumulate
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor

Nest = TypeVar("Nest")
ALIGNMENT = 16  # bytes; every dtype can be read there


def working(value: Tensor) -> Tensor:
    """``value`` in the precision of policy arithmetic: float64 stays, and all else becomes float32."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """A (B,) tensor as (B, 1, ...), with the axes, the dtype and the device of ``like`` (B, ...)."""
    return value.to(device=like.device, dtype=like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def all_finite(value: Tensor) -> bool:
    """Whether ``value`` holds neither NaN nor infinity; integers never do."""
    if not value.is_floating_point():
        return True
    if value.itemsize == 1:
        value = value.float()
    # A sum is quicker than a test of every number, and no NaN or infinity gets lost in it; it may only overflow by
    # itself.
    return bool(value.sum(dtype=torch.float32).isfinite()) or bool(value.isfinite().all())


def whole(value: Tensor) -> Tensor:
    """All of a tensor that processes share out (a DTensor), for which each of them must ask; any other as it is."""
    gather = getattr(value, "full_tensor", None)
    return value if gather is None else gather()


def like_shared(value: Tensor, own: Tensor) -> Tensor:
    """``value``, which every process has whole, shared out as ``own`` is; as it is where that is not shared out."""
    if not hasattr(own, "full_tensor"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(own, DTensor)
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def to_device(nest: Nest, device: torch.device, keep: Collection[str] = ()) -> Nest:
    """``nest``, of dicts, tuples, named tuples, tensors and None, on another device.

    Entries of dicts that are called as in ``keep`` stay where they are. A GPU takes all that lies in host memory in one
    copy, for which the host does not wait.
    """
    found = list(_tensors(nest, keep))
    moved = _copied_together(found, device) if device.type == "cuda" else [value.to(device) for value in found]
    return _rebuilt(nest, iter(moved), keep)


def _copied_together(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    waiting = [value for value in tensors if value.device.type == "cpu"]
    if not waiting:
        return [value.to(device) for value in tensors]
    rooms = [-(-value.nbytes // ALIGNMENT) * ALIGNMENT for value in waiting]
    begins = [0, *accumulate(rooms)]
    # Only from pinned memory does a copy go on while the host does; torch keeps it until the copy has ended.
    host = torch.empty(begins[-1], dtype=torch.uint8, pin_memory=True)
    for value, begin in zip(waiting, begins, strict=False):
        room_for(value, host, begin).copy_(value)
    there = host.to(device, non_blocking=True)
    places = {id(value): room_for(value, there, begin) for value, begin in zip(waiting, begins, strict=False)}
    return [places[id(value)] if id(value) in places else value.to(device) for value in tensors]


def room_for(like: Tensor, memory: Tensor, begin: int = 0) -> Tensor:
    """Room for a tensor like ``like`` in ``memory`` (bytes), from the byte ``begin`` on."""
    return memory[begin : begin + prod(like.shape) * like.itemsize].view(like.dtype).view(like.shape)


def _tensors(nest: Any, keep: Collection[str]) -> Iterator[Tensor]:
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, dict):
        for name, part in nest.items():
            yield from () if name in keep else _tensors(part, keep)
    elif nest is not None:
        for part in nest:
            yield from _tensors(part, keep)


def _rebuilt(nest: Any, values: Iterator[Tensor], keep: Collection[str]) -> Any:
    if isinstance(nest, Tensor):
        return next(values)
    if isinstance(nest, dict):
        return {name: part if name in keep else _rebuilt(part, values, keep) for name, part in nest.items()}
    if nest is None:
        return None
    parts = [_rebuilt(part, values, keep) for part in nest]
    return type(nest)(*parts) if hasattr(nest, "_fields") else tuple(parts)
