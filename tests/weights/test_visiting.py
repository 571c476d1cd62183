"""Frozen layers that visit a device while they compute: on the CPU they do so as copies."""

from __future__ import annotations

import pytest
import torch
from helpers import seeded
from torch import Tensor, nn

from piflow_cli.weights.visiting import visit

CPU = torch.device("cpu")


def layers() -> tuple[nn.Sequential, Tensor]:
    """Two layers that share a weight, and what they are given."""
    one, other = nn.Linear(6, 6), nn.Linear(6, 6)
    other.weight = one.weight
    x = torch.randn(2, 3, 6, generator=seeded(), requires_grad=True)
    return nn.Sequential(one, other).requires_grad_(False), x


def places(model: nn.Module) -> list[int]:
    return [value.data_ptr() for value in model.parameters()]


def test_weights_are_away_while_a_layer_computes_and_at_home_otherwise() -> None:
    model, x = layers()
    expected, away = model(x), []
    visit(list(model), CPU)
    home, values = places(model), [value.clone() for value in model.parameters()]
    model[0].register_forward_hook(lambda layer, given, answer: away.extend(places(layer)), prepend=True)
    assert torch.equal(model(x), expected)
    assert len(away) == 2 and not set(away) & set(home) and places(model) == home
    assert all(torch.equal(value, other) for value, other in zip(model.parameters(), values, strict=True))


def test_weights_come_home_after_an_error() -> None:
    model, x = layers()
    visit(list(model), CPU)
    home = places(model)
    with pytest.raises(RuntimeError, match="shape"):
        model(x[..., :5])
    assert places(model) == home


def test_a_backward_pass_has_the_weights_of_its_forward_pass() -> None:
    """A layer has let go of what it fetched, and autograd holds it."""
    model, x = layers()
    (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    visit(list(model), CPU)
    y = model(x).square().sum()
    for value in model.parameters():
        value.data.fill_(torch.nan)
    (found,) = torch.autograd.grad(y, x)
    assert torch.equal(found, expected)
