"""The student on the meta device: what autograd would keep of a forward pass, without a weight in memory."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from .memory import Trace

OUTSIDE = -1


def trace(model: nn.Module, forward: Callable[[], Tensor], state: int, dtype: torch.dtype) -> Trace:
    """Run ``forward`` of ``model``, all of it on the meta device, and count.

    ``state``: elements of its input; ``dtype``: what autocast computes in. Tensors that share memory count once,
    parameters and buffers do not. The blocks are the members of the model's lists of modules: what checkpointing is
    applied to.
    """
    counter = Counter(model)
    with (
        counter.watching(blocks_of(model)),
        _Casting(dtype, counter),
        saved_tensors_hooks(counter.keep, lambda value: value),
    ):
        output = forward()
    blocks = range(len(counter.inputs))
    return Trace(
        inputs=tuple(counter.inputs),
        kept=tuple(counter.kept.get(block, 0) for block in blocks),
        outside=counter.kept.get(OUTSIDE, 0),
        largest=counter.largest,
        output=output.numel(),
        state=state,
    )


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks, in order of the model's attributes."""
    return [block for child in model.children() if isinstance(child, nn.ModuleList) for block in child]


class Counter:
    """Bytes that autograd keeps, by the block in which it first keeps them."""

    def __init__(self, model: nn.Module) -> None:
        # Storages are held on to: the place of one that is freed may be given to another.
        self.seen = {_place(value): value for value in [*model.parameters(), *model.buffers()]}
        self.block = OUTSIDE
        self.inputs: list[int] = []
        self.kept: dict[int, int] = {}
        self.largest = 0

    def keep(self, value: Tensor) -> Tensor:
        if self._new(value):
            self.kept[self.block] = self.kept.get(self.block, 0) + value.untyped_storage().nbytes()
        return value

    @contextmanager
    def watching(self, blocks: list[nn.Module]) -> Generator[None]:
        """Notice when a block begins and ends."""
        hooks = [block.register_forward_pre_hook(self._begin, with_kwargs=True) for block in blocks]
        hooks += [block.register_forward_hook(self._end) for block in blocks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        new = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor) and self._new(value)]
        self.inputs.append(sum(value.untyped_storage().nbytes() for value in new))
        self.block = len(self.inputs) - 1

    def _end(self, module: nn.Module, args: tuple, output: Any) -> None:
        self.block = OUTSIDE

    def _new(self, value: Tensor) -> bool:
        place = _place(value)
        return place not in self.seen and self.seen.setdefault(place, value) is value


def _place(value: Tensor) -> int:
    return value.untyped_storage()._cdata


class _Flash(torch.autograd.Function):
    """What fused attention keeps: queries, keys, values, its answer, and a logarithm a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        answer = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, answer, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return answer


class _Casting(TorchFunctionMode):
    """Autocast, and the shapes of fused attention: the meta device has neither."""

    def __init__(self, dtype: torch.dtype, counter: Counter) -> None:
        super().__init__()
        self.dtype = dtype
        self.counter = counter

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if func is F.scaled_dot_product_attention:
            query, key, value = _cast(
                args[:3] if args else tuple(kwargs[name] for name in ("query", "key", "value")), self.dtype
            )
            return _Flash.apply(query, key, value)
        if func in (F.linear, F.conv2d):
            answer = func(*_cast(args, self.dtype), **_cast(kwargs, self.dtype))
            self.counter.largest = max(self.counter.largest, answer.numel() * answer.element_size())
            return answer
        if func in (F.layer_norm, F.rms_norm):
            return func(*_cast(args, torch.float32), **_cast(kwargs, torch.float32))
        return func(*args, **kwargs)


def _cast(values: Any, dtype: torch.dtype) -> Any:
    return tree_map(
        lambda value: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value, values
    )
