"""The table of parameterisations, by the names that families and schedulers use."""

from __future__ import annotations

from .base import Parameterisation
from .edm import EDM
from .vp import VariancePreserving

FLOW = "flow"
ROWS: dict[str, Parameterisation] = {
    FLOW: Parameterisation(),
    "epsilon-linear": VariancePreserving("epsilon", "linear"),
    "epsilon-scaled-linear": VariancePreserving("epsilon", "scaled_linear"),
    "v-linear": VariancePreserving("v", "linear"),
    "v-scaled-linear": VariancePreserving("v", "scaled_linear"),
    "x0-linear": VariancePreserving("x_0", "linear"),
    "x0-scaled-linear": VariancePreserving("x_0", "scaled_linear"),
    "edm": EDM(),
}


def parameterisation_of(name: str) -> Parameterisation:
    """The row called ``name``; raises KeyError where there is none."""
    return ROWS[name]
