"""What a program asks of a GPU, seen call by call: waits, copies, launches and memory."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

# Operations whose answer has a size, or is a number, that only the device knows.
ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero")
# Operations that hand out memory or another look at it, besides the views that say so of themselves.
STILL = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "_unsafe_view", "resize_", "set_")
PACKAGE = "piflow_cli"
# C++ asks for the device of a fake tensor by this call: half of all calls.
DEVICE = torch.ops.prim.device.default


class Watch(TorchDispatchMode):
    """Counts, by place in the package, what makes the host wait for the device, and copies to it that do not.

    ``waits``: copies that block, and numbers that are asked of the device (each is answered by 1). ``copies``: copies
    to the device that do not block. A place is the operation, and the innermost lines outside torch and inside the
    package. ``launched``: calls of torch that make the device compute, by their names; each is one launch, if not more.
    ``calls``: all calls of torch for tensors of the device, views too. While ``host_is_real`` tensors of the host have
    values.
    """

    host_is_real = False

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self.mode = mode
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.launched: Counter[str] = Counter()
        self.calls = 0
        # Storages of pinned memory, which are held on to: the place of one that is freed may be given to another.
        self.pinned: list[int] = []
        self.kept: list[Tensor] = []

    def _fake(self, value: Any) -> Any:
        real = isinstance(value, Tensor) and not isinstance(value, FakeTensor)
        return self.mode.from_tensor(value) if real else value

    def clear(self) -> None:
        self.waits.clear()
        self.copies.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is DEVICE and isinstance(args[0], FakeTensor):
            return args[0].device
        name, kwargs = func._schema.name.removeprefix("aten::"), {} if kwargs is None else kwargs
        given = tensors_in(args, kwargs.values())
        devices = {value.device.type for value in given}
        if name == "_local_scalar_dense" and "cuda" in devices:
            self.waits[place(name)] += 1
            return 1
        pinned, kwargs = (
            kwargs.get("pin_memory", False),
            {**kwargs, "pin_memory": False} if "pin_memory" in kwargs else kwargs,
        )
        fakes = sum(isinstance(value, FakeTensor) for value in given)
        if self.host_is_real and not fakes and _on_host(devices, kwargs):
            with unset_fake_temporarily():
                out = func(*args, **kwargs)
        elif fakes == len(given):
            out = func(*args, **kwargs)
        else:
            # FakeTensors would copy a real one to the device in earnest.
            out = func(*tree_map(self._fake, args), **tree_map(self._fake, kwargs))
        if pinned:
            self.pinned.append(out.untyped_storage()._cdata)
            self.kept.append(out)
        self._count(name, devices, args, kwargs, out)
        made = tensors_in((out,))
        if func.namespace == "aten" and ("cuda" in devices or any(value.device.type == "cuda" for value in made)):
            self.calls += 1
            self.launched[name] += _launches(func, name, devices, made)
        return out

    def _count(self, name: str, devices: set[str], args: tuple, kwargs: dict, out: Any) -> None:
        if name in ("_to_copy", "copy_") and isinstance(out, Tensor) and {*devices, out.device.type} == {"cpu", "cuda"}:
            source = args[1] if name == "copy_" else args[0]
            asked = kwargs.get("non_blocking", False) or (name == "copy_" and args[2:3] == (True,))
            # From memory that is not pinned a copy blocks, whatever was asked; back to the host nothing is known before
            # the copy has ended.
            free = asked and out.device.type == "cuda" and source.untyped_storage()._cdata in self.pinned
            (self.copies if free else self.waits)[place(name)] += 1
        elif name in ASKING and "cuda" in devices:
            self.waits[place(name)] += 1


def tensors_in(*nests: Iterable[Any]) -> list[Tensor]:
    """The tensors in arguments or answers of torch, which are nested in lists and tuples; quicker than torch's own."""
    found: list[Tensor] = []
    for nest in nests:
        for value in nest:
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, (list, tuple)):
                found += tensors_in(value)
    return found


def _launches(func: Any, name: str, devices: set[str], made: list[Tensor]) -> bool:
    """Whether a call writes something on the device that does not come from the host, and is no look at it."""
    if not made:
        return name.startswith("_foreach")
    crosses = name in ("_to_copy", "copy_") and {*devices, made[0].device.type} == {"cpu", "cuda"}
    return any(value.numel() for value in made) and not (crosses or func.is_view or name in STILL)


def _on_host(devices: set[str], kwargs: dict) -> bool:
    """Whether a call reads tensors of the host alone, which lie on ``devices``, and makes such ones."""
    into = kwargs.get("device")
    return not devices - {"cpu"} and (into is None or torch.device(into).type == "cpu")


def place(operation: str) -> str:
    """The operation, the innermost line outside torch, and the innermost inside the package."""
    here = Path(__file__).parent
    frames = [
        frame
        for frame in traceback.extract_stack()
        if "/torch/" not in frame.filename and Path(frame.filename).parent != here
    ]
    shown = [*frames[-1:], *[frame for frame in frames if PACKAGE in frame.filename][-1:]]
    lines = [f"{Path(frame.filename).name}:{frame.lineno} {frame.line}" for frame in shown]
    return " <- ".join(dict.fromkeys([operation, *lines]))
