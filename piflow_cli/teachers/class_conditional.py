"""What teachers that are told a class share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch

from ..core.parameterisations.base import TIMESTEPS
from ..errors import UsageError
from .base import Conditioning, Network, TeacherFamily

CLASSES = "class_labels"  # the entry of a conditioning that tells classes


class ClassConditionalFamily(TeacherFamily):
    """Class-conditional teachers of one image size.

    Conditioning: ``class_labels`` (B,) int64, of which the one after the last class is none. ``time_unit``: timesteps
    in one unit of their networks' time.
    """

    fine_steps = 128
    beside_steps = 128
    time_unit: ClassVar[float] = TIMESTEPS

    @abstractmethod
    def class_count(self, model: Network) -> int:
        """The number of classes that the model was conditioned on."""

    def condition(self, model: Network, labels: Sequence[int]) -> Conditioning:
        """Conditioning of class ``labels``; raises UsageError for a class that the model does not know."""
        classes = self.class_count(model)
        unknown = sorted({label for label in labels if not 0 <= label < classes})
        if unknown:
            raise UsageError(
                f"label {unknown[0]} is out of range: this model has classes 0 to {classes - 1}",
                f"choose labels with --labels 0-{classes - 1}",
            )
        return {CLASSES: torch.tensor(labels, dtype=torch.int64)}

    def unconditional(self, model: Network, conditioning: Conditioning) -> Conditioning:
        return {CLASSES: torch.full_like(conditioning[CLASSES], self.class_count(model))}

    def longest_conditioning(self, model: Network) -> Conditioning:
        return {name: value.to("meta") for name, value in self.condition(model, [0]).items()}

    def sample_shape(self, model: Network) -> tuple[int, ...]:
        """Shape (C, *S) of one state."""
        return (model.config.in_channels, model.config.sample_size, model.config.sample_size)
