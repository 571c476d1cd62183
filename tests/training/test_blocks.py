"""The parts of a network that processes gather one after another where they share its weights out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny_edm2 import tiny_edm2
from torch import nn
from zoo import ZOO

from piflow_cli.training.parallel import blocks_of


@pytest.mark.parametrize("network", [ZOO["flux3-klein"].build, ZOO["flux"].build, tiny_edm2])
def test_blocks_are_those_that_the_class_says_of_wherever_they_stand(network: Callable[[], nn.Module]) -> None:
    """FLUX.3 has lists in a dict, and EDM2 dicts with a convolution among the blocks."""
    model = network()
    whole = [part for part in model.modules() if type(part).__name__ in model._no_split_modules]
    assert sorted(map(id, blocks_of(model))) == sorted(map(id, whole)) and whole


def test_embedders_in_a_dict_are_no_blocks() -> None:
    model = ZOO["z-image"].build()
    assert blocks_of(model) == [*model.noise_refiner, *model.context_refiner, *model.layers]
