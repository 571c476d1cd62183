"""The precision that training computes in: bfloat16 by autocast, attention in float32 where that is faster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class AttentionInFloat32(TorchFunctionMode):
    """Widens what scaled_dot_product_attention is given, and returns its result in the dtype of the queries.

    On a CPU the backward pass of its kernel is slower in bfloat16, several times for short texts in narrow heads.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        dtype = (args[0] if args else kwargs["query"]).dtype
        with torch.autocast("cpu", enabled=False):
            return func(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()}).to(dtype)


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@contextlib.contextmanager
def training_precision(device: torch.device) -> Generator[None]:
    with contextlib.ExitStack() as entered:
        entered.enter_context(torch.autocast(device.type, torch.bfloat16))
        if device.type == "cpu":
            entered.enter_context(AttentionInFloat32())
        yield
