"""Evaluations of a network on a GPU that is not there: those that would ask nothing new are answered at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from piflow_cli.teachers.base import Conditioning

# The first may prepare what later ones find; the second finds it.
ENOUGH = 2


def those_that_differ(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A family's ``call`` that evaluates a network twice on inputs of the same places, types and layouts.

    Fake tensors differ in nothing else. From then on the answer is an empty tensor like the one of the second time.
    """
    times: Counter[tuple] = Counter()
    answers: dict[tuple, tuple] = {}

    def evaluate(model: Any, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        inputs = {"x": x, "sigma": sigma, **conditioning}
        key = (id(model), *((name, *_layout(value)) for name, value in inputs.items()))
        times[key] += 1
        if times[key] > ENOUGH:
            shape, strides, dtype, device = answers[key]
            return torch.empty_strided(shape, strides, dtype=dtype, device=device)
        out = call(model, x, sigma, conditioning)
        answers[key] = _layout(out)
        return out

    return evaluate


def _layout(value: Tensor) -> tuple:
    return tuple(value.shape), value.stride(), value.dtype, value.device
