"""What a program has allocated on a GPU that is not there, call by call."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from watching import PACKAGE

PAGE = 512  # bytes that torch's allocator rounds up to
HERE = str(Path(__file__).parent)


@dataclass(frozen=True)
class Held:
    """A storage: its bytes, the tensor that it was made for, and where.

    ``lines``: the innermost outside torch and inside the package, as (code, line). ``node``: the one of autograd whose
    backward made it, "" in a forward pass.
    """

    bytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    operation: str
    node: str
    lines: tuple[tuple[CodeType, int], ...]

    @property
    def place(self) -> str:
        """The operation and its lines, as text."""
        lines = [f"{Path(code.co_filename).name}:{line} {code.co_name}" for code, line in self.lines]
        return " <- ".join(dict.fromkeys([self.operation, *([self.node] if self.node else []), *lines]))


class Allocations(TorchDispatchMode):
    """The storages on "cuda", in the order in which they come and go; views and what is changed in place are no news.

    It holds none of them: a storage is gone when the last tensor on it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Held] = []
        # A storage's number when it comes, and -1 less its number when it goes.
        self.events: list[int] = []
        self.known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **({} if kwargs is None else kwargs))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.device.type == "cuda":
                self._meet(value, func)
        return out

    def _meet(self, value: Tensor, func: Any) -> None:
        storage = value.untyped_storage()
        if storage._cdata in self.known:
            return
        number = self.known[storage._cdata] = len(self.all)
        node = torch._C._current_autograd_node()
        size = -(-storage.nbytes() // PAGE) * PAGE
        name = func._schema.name.removeprefix("aten::")
        self.all.append(Held(size, tuple(value.shape), value.dtype, name, node.name() if node else "", lines()))
        self.events.append(number)
        weakref.finalize(storage, partial(self._forget, storage._cdata, number)).atexit = False

    def _forget(self, storage: int, number: int) -> None:
        del self.known[storage]
        self.events.append(-1 - number)

    def live(self) -> list[int]:
        """Bytes that are held after each event."""
        sizes = (self.all[event].bytes if event >= 0 else -self.all[-1 - event].bytes for event in self.events)
        return list(accumulate(sizes))

    def peak(self, since: int = 0) -> tuple[int, list[Held]]:
        """The most bytes that were held after event ``since``, and what held them, the largest first."""
        live = self.live()
        highest = max(range(since, len(live)), key=live.__getitem__)
        alive: dict[int, Held] = {}
        for event in self.events[: highest + 1]:
            if event >= 0:
                alive[event] = self.all[event]
            else:
                del alive[-1 - event]
        return live[highest], sorted(alive.values(), key=lambda held: -held.bytes)


def lines() -> tuple[tuple[CodeType, int], ...]:
    """The innermost lines outside torch, and inside the package, of whoever called torch."""
    found: list[tuple[CodeType, int]] = []
    for frame in _frames():
        name = frame.f_code.co_filename
        if "/torch/" in name or name.startswith(HERE):
            continue
        if not found or PACKAGE in name:
            found.append((frame.f_code, frame.f_lineno))
        if PACKAGE in name:
            break
    return tuple(found)


def _frames() -> Iterator[Any]:
    frame: Any = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
