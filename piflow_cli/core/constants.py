"""The constants of a pi-ID step (pi-Flow, arXiv 2510.14974, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

from .timegrid import TimeGrid


@dataclass(frozen=True)
class ImitationConfig:
    """Constants of one pi-ID step.

    ``states`` S asked of the teacher per segment; ``window`` W, the micro-window in substeps; ``substeps`` per unit of
    raw time; ``dropout`` of the policies' ``components``; ``loss_scale``; ``states_per_query`` bounds how many states
    share one teacher batch (0: all that can). ``energy``, ``moments``: weights of two distances to data.
    """

    grid: TimeGrid
    states: int = 2
    window: int = 0
    substeps: int = 128
    dropout: float = 0.0
    components: int = 0
    loss_scale: float = 1.0
    states_per_query: int = 0
    energy: float = 0.0
    moments: float = 0.0

    @property
    def most_per_query(self) -> int:
        """The largest number of states that share one teacher batch."""
        return self.states_per_query if self.states_per_query > 0 else self.states

    @property
    def compares_data(self) -> bool:
        """Whether the loss has a distance to data."""
        return self.energy > 0 or self.moments > 0

    def __post_init__(self) -> None:
        if self.dropout > 0 and self.components < 1:
            raise ValueError("dropout needs the number of components that it chooses from")
