"""Memory that a computation on torch's meta device would hold, and autocast, which that device lacks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

PAGE = 512  # bytes that torch's allocator for GPUs rounds up to
# What autocast computes in the narrow dtype, and what in float32, of all that networks call.
NARROWED = {F.linear, F.conv1d, F.conv2d, F.conv3d, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm}
WIDENED = {F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax}


def widened() -> set[Callable]:
    """What the installed torch's autocast computes in float32 on a GPU: ``rms_norm`` only since torch 2.12."""
    widens = torch._C._dispatch_has_kernel_for_dispatch_key("aten::rms_norm", "AutocastCUDA")
    return WIDENED | ({F.rms_norm} if widens else set())


@contextmanager
def meta_autocast() -> Generator[None]:
    """Let networks turn autocast off on the meta device, which has none and refuses even that."""
    own = torch.autocast

    def chosen(device_type: str, *given: Any, **named: Any) -> Any:
        return nullcontext() if device_type == "meta" else own(device_type, *given, **named)

    setattr(torch, "autocast", chosen)  # noqa: B010 - a class, which nothing else may take the place of
    try:
        yield
    finally:
        setattr(torch, "autocast", own)  # noqa: B010


class Live(TorchDispatchMode):
    """Counts bytes ``now`` and ``highest`` of storages on the meta device that come and go while it is open.

    It holds none of them. What is there before, and in ``standing``, does not count.
    """

    def __init__(self, standing: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.highest = 0
        self._makes_new: dict[Any, bool] = {}
        self._layouts: dict[tuple, tuple] = {}
        # By place, what tells when a storage goes; that of standing memory is not waited for.
        self._known: dict[int, weakref.ref | None] = {value.untyped_storage()._cdata: None for value in standing}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = self._answer(func, args, {} if kwargs is None else kwargs)
        for value in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(value, Tensor) and value.is_meta:
                self._meet(value.untyped_storage())
        return out

    def _answer(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """What ``func`` answers; of one new tensor the layout is remembered: blocks repeat, and shapes take long."""
        if func not in self._makes_new:
            self._makes_new[func] = not func._schema.is_mutable and [
                (str(value.type), value.alias_info) for value in func._schema.returns
            ] == [("Tensor", None)]
        if not self._makes_new[func]:
            return func(*args, **kwargs)
        key = (func, _layouts(args), _layouts(tuple(kwargs.items())))
        if key in self._layouts:
            shape, stride, dtype, device = self._layouts[key]
            return torch.empty_strided(shape, stride, dtype=dtype, device=device)
        out = func(*args, **kwargs)
        if out.is_meta:
            self._layouts[key] = _layout(out)
        return out

    def _meet(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place in self._known:
            return
        size = -(-storage.nbytes() // PAGE) * PAGE

        def gone(reference: weakref.ref) -> None:
            del self._known[place]
            self.now -= size

        self._known[place] = weakref.ref(storage, gone)
        self.now += size
        self.highest = max(self.highest, self.now)

    @contextmanager
    def peak(self) -> Generator[list[int]]:
        """A list that holds, after the block, the most bytes that were there in it."""
        found: list[int] = []
        self.highest = self.now
        yield found
        found.append(self.highest)


def _layout(value: Tensor) -> tuple:
    return value.shape, value.stride(), value.dtype, value.device


def _layouts(value: Any) -> Any:
    """A nest of arguments with the layouts of its tensors in their places."""
    if isinstance(value, Tensor):
        return _layout(value)
    return tuple(map(_layouts, value)) if isinstance(value, (tuple, list)) else value


class _Fused(torch.autograd.Function):
    """What fused attention keeps: queries, keys, values, its answer, and a logarithm a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        answer = _like_heads(query, value.shape[-1])
        ctx.save_for_backward(query, key, value, answer, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return answer

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _like_heads(query: Tensor, width: int) -> Tensor:
    """An answer (B, heads, tokens, width) that lies in memory as (B, tokens, heads, width), as fused attention's."""
    batch, heads, tokens, _ = query.shape
    return query.new_empty(batch, tokens, heads, width).transpose(1, 2)


class Autocast(TorchFunctionMode):
    """Autocast to ``dtype``, and fused attention, on the meta device.

    As on a GPU, copies of trained weights are made once and held until :meth:`forget`; those of frozen weights are made
    for each use, and so are those of ``packed``, identities of weights that are kept in fewer bits.
    """

    def __init__(self, dtype: torch.dtype, packed: Collection[int] = ()) -> None:
        super().__init__()
        self.dtype = dtype
        self.packed = packed
        self._widened = widened() if dtype != torch.float32 else set()
        self._copies: dict[int, Tensor] = {}

    def forget(self) -> None:
        self._copies.clear()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if func is F.scaled_dot_product_attention:
            query, key, value = args[:3] if args else (kwargs[name] for name in ("query", "key", "value"))
            return _Fused.apply(*(self._narrow(part) for part in (query, key, value)))
        if func is F.dropout and kwargs.get("training", True):
            # Elsewhere than on a GPU it would keep a factor for each number, and not a bit.
            return torch.native_dropout(args[0], kwargs.get("p", 0.5), True)[0]
        if func in NARROWED:
            args, kwargs = tree_map(self._narrow, (args, kwargs))
        elif func in self._widened:
            args, kwargs = tree_map(_widen, (args, kwargs))
        return func(*args, **kwargs)

    def _narrow(self, value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            return value
        if id(value) in self.packed or not (value.is_leaf and value.requires_grad):
            return value.to(self.dtype, copy=id(value) in self.packed)
        if value.dtype == self.dtype:
            return value
        if id(value) not in self._copies:
            self._copies[id(value)] = value.to(self.dtype)
        return self._copies[id(value)]


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
