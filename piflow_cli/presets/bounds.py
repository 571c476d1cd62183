"""The largest values of presets and options, and the reasons.

Beyond them a slip of typing is likelier than a wish.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..errors import UsageError

AnyNumber = TypeVar("AnyNumber", int, float, int | None, float | None)


class Check(Protocol):
    """A function that gives a value back, or raises UsageError where it is out of bounds."""

    def __call__(self, value: AnyNumber, /) -> AnyNumber: ...


@dataclass(frozen=True)
class Bound:
    """The largest value of a number, and the reason, which continues "at most N, ".

    The type of the number knows the smallest value.
    """

    most: float
    reason: str

    @property
    def text(self) -> str:
        return f"{self.most:,.0f}"

    def fault(self, value: float) -> str | None:
        """What is wrong with ``value``; None where nothing is. NaN is wrong, infinity too."""
        return None if value <= self.most else f"must be at most {self.text}, {self.reason}, not {value}"

    def check(self, value: AnyNumber) -> AnyNumber:
        """``value`` itself, for pydantic; raises ValueError."""
        if value is not None and (fault := self.fault(value)) is not None:
            raise ValueError(fault)
        return value

    def option(self, name: str) -> Check:
        """The same check for the option ``name`` of the command line; raises UsageError."""

        def check(value: AnyNumber) -> AnyNumber:
            if value is not None and self.fault(value) is not None:
                raise UsageError(
                    f"{name} {value}: more than {self.text}, {self.reason}", f"type {name} {self.most:.0f}, or less"
                )
            return value

        return check


EVALUATIONS = Bound(1000, "which is how many timesteps a scheduler of diffusers counts")
SUBSTEPS = Bound(100_000, "beyond which float32 rounds more away than a finer grid gains")
TEACHER_STEPS = Bound(10_000, "beyond which float32 rounds more away than finer steps gain")
SIDE = Bound(8192, "beyond which PNG readers take a square picture for an attack")
FRAMES = Bound(1000, "which is a minute of video, and more than any of the models has seen")
ITERATIONS = Bound(9_999_999, "since the names of checkpoints have seven digits")
BATCH = Bound(1_000_000, "since a batch is in memory at once")
IMAGES = Bound(10_000_000, "which is already two hundred times what FID is measured on")
SAMPLES = Bound(1e9, "which is more than any list of prompts holds")
MEASURED = Bound(1_000_000, "since their features are in memory at once")
COMPONENTS = Bound(1024, "since each makes the network's last layer wider")
WIDTH = Bound(65_536, "which is wider than any layer of the models")
PORT = Bound(65_535, "which is the last one there is")
PROCESSES = Bound(128, "since all of them run on this machine")
RATIO = Bound(64, "since the shorter side is a few patches then")
GUIDANCE = Bound(1000, "beyond which guided velocities leave the range of 16 bits")
SHIFT = Bound(1000, "beyond which all steps lie at pure noise")
SCALE = Bound(1000, "beyond which weights leave the range of 16 bits")
RATE = Bound(1, "since the optimiser moves each weight by about the rate")
NUMBER = Bound(1e9, "which float32 no longer tells from its neighbours")
