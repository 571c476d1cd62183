"""How much larger what a network predicts of the noise may be in a student's velocity."""

from __future__ import annotations

from piflow_cli.core.parameterisations import vp

from .pieces import wrap


def bounded(most: float) -> None:
    """Bound it by ``most`` in place of MOST_GAIN."""
    wrap(vp, "MOST_GAIN", lambda own: most)
