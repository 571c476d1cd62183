"""Checkpoints of optimisers: whatever they keep comes back as it was, so that the next step is the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import seeded
from torch import Tensor, nn

from piflow_cli.training.checkpoints import (
    TrainingState,
    load_checkpoint,
    save_checkpoint,
)

# Eight bits are for large tensors; small ones stay in 32.
SHAPES = ((128, 64), (8,))
TABLE = torch.linspace(-1, 1, 256)


class LikeBitsandbytes(torch.optim.Optimizer):
    """Its state has the form of that of AdamW8bit: steps counted by a number, moments in a mapping within, one table for all."""

    WITHIN = "__bnb_optimizer_quant_state__"

    def __init__(self, parameters, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        for value in self.param_groups[0]["params"]:
            state = self.state[value]
            if not state:
                state.update(step=0, state1=torch.zeros(value.shape, dtype=torch.uint8), qmap1=TABLE)
            assert type(state["step"]) is int and state["state1"].dtype == torch.uint8
            state["step"] += 1
            state["state1"].add_(1)
            value -= self.param_groups[0]["lr"] * (state["step"] + state["qmap1"][state["state1"].long()]) * value.grad

    def state_dict(self) -> dict:
        found = super().state_dict()
        wrapped = {
            index: {"step": entries["step"], self.WITHIN: {name: entries[name] for name in ("state1", "qmap1")}}
            for index, entries in found["state"].items()
        }
        return {**found, "state": wrapped}

    def load_state_dict(self, state: dict) -> None:
        for value, entries in zip(self.param_groups[0]["params"], state["state"].values(), strict=True):
            self.state[value] = dict(entries)


def eight_bits(parameters, lr: float) -> torch.optim.Optimizer:
    return pytest.importorskip("bitsandbytes").optim.AdamW8bit(parameters, lr=lr)


def model() -> nn.ParameterList:
    return nn.ParameterList([torch.randn(shape, generator=seeded(number)) for number, shape in enumerate(SHAPES)])


def gradients(step: int) -> list[Tensor]:
    return [torch.randn(shape, generator=seeded(10 * step + number)) for number, shape in enumerate(SHAPES)]


@pytest.mark.parametrize("kind", [torch.optim.AdamW, LikeBitsandbytes, eight_bits])
def test_an_optimiser_goes_on_bit_for_bit(kind: Callable[..., torch.optim.Optimizer], tmp_path: Path) -> None:
    first, second = model(), model()
    whole, resumed = kind(first.parameters(), lr=1e-2), kind(second.parameters(), lr=1e-2)

    def advance(weights: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        for value, gradient in zip(weights.parameters(), gradients(step), strict=True):
            value.grad = gradient
        optimizer.step()

    for step in range(3):
        advance(first, whole, step)
    path = save_checkpoint(tmp_path, TrainingState(first, copy.deepcopy(first), whole, 3), keep=1)
    load_checkpoint(path, TrainingState(second, copy.deepcopy(second), resumed))
    for step in range(3, 6):
        advance(first, whole, step)
        advance(second, resumed, step)
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))
