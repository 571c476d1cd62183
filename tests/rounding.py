"""Models that were rounded by hand, to compare stored ones with."""

from __future__ import annotations

import copy
import re

import torch
from torch import nn

from piflow_cli.weights.quantisation import delicate


def rounded(base: nn.Module, keep: set[str]) -> nn.Module:
    """A copy whose matrices hold what is left of them in 8 bits."""
    patterns = delicate(base, keep)
    base = copy.deepcopy(base)
    for path, layer in base.named_modules():
        if isinstance(layer, nn.Linear) and not any(re.search(pattern, path) for pattern in patterns):
            for value in layer.parameters():
                value.data = value.data.to(torch.float8_e4m3fn).to(value.dtype)
    return base
