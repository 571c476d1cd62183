"""Checks of the core's input, and the one error that they raise."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

TIME_SLACK = 1e-6  # raw times often arrive as float32
_unchecked = ContextVar("unchecked", default=False)


class PolicyError(ValueError):
    """A policy or a rollout was given something impossible; ``argument`` names it."""

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(f"{argument}: {message}")
        self.argument = argument


def check_shape(argument: str, value: Tensor, expected: Sequence[int]) -> None:
    """Raise :class:`PolicyError` unless ``value`` has exactly the ``expected`` shape."""
    if tuple(value.shape) != tuple(expected):
        raise PolicyError(argument, f"shape {tuple(value.shape)} where {tuple(expected)} is needed")


def check_not_empty(argument: str, value: Tensor, axes: int) -> None:
    """Raise :class:`PolicyError` unless ``value`` has at least ``axes`` axes, none of length zero."""
    if value.ndim < axes or value.numel() == 0:
        raise PolicyError(argument, f"shape {tuple(value.shape)} is empty or has fewer than {axes} axes")


def check_positive(argument: str, value: float) -> None:
    """Raise :class:`PolicyError` unless the number is positive and finite."""
    if not 0 < value < float("inf"):
        raise PolicyError(argument, f"must be positive and finite, not {value}")


def values_are_readable(value: Tensor) -> bool:
    """Whether a check may read values: in host memory always, elsewhere under ``PIFLOW_CHECK=1``."""
    return value.device.type == "cpu" or os.environ.get("PIFLOW_CHECK") == "1"


@contextmanager
def values_unchecked() -> Generator[None]:
    """Let :func:`check_finite` pass everything, as on a GPU, for callers that check the results themselves.

    If one of several processes raised, the others would wait for it.
    """
    token = _unchecked.set(True)
    try:
        yield
    finally:
        _unchecked.reset(token)


def check_finite(argument: str, value: Tensor, *, minus_infinity: bool = False) -> None:
    """Raise :class:`PolicyError` at NaN or infinity; ``minus_infinity`` passes, for log-weights."""
    if _unchecked.get() or not values_are_readable(value) or value.numel() == 0:
        return
    low, high = torch.aminmax(value.detach())
    if not torch.isfinite(high) or not (torch.isfinite(low) or (minus_infinity and low == -torch.inf)):
        raise PolicyError(argument, "holds a value that is not finite")


def check_descending(raws: Sequence[Tensor], names: Sequence[str], batch: int) -> None:
    """Raise :class:`PolicyError` unless each of the raw times (B,) is in [0, 1] and not above the one before it."""
    for raw, name in zip(raws, names, strict=True):
        check_shape(name, raw, (batch,))
        check_finite(name, raw)
    if not all(values_are_readable(raw) for raw in raws):
        return
    times = torch.stack([raw.double().cpu() for raw in raws])
    if times.numel() == 0:
        return
    outside = ((times < -TIME_SLACK) | (times > 1 + TIME_SLACK)).any(dim=1).tolist()
    rising = (times.diff(dim=0) > TIME_SLACK).any(dim=1).tolist()
    for index, name in enumerate(names):
        if outside[index]:
            raise PolicyError(name, "raw times lie in [0, 1]")
        if index and rising[index - 1]:
            raise PolicyError(name, f"lies above {names[index - 1]}: a policy is followed downwards only")
