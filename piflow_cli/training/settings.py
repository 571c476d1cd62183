"""Settings of a training derived from a preset: cuts of the batch, the time grid, the constants of imitation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ..core.constants import ImitationConfig
from ..core.policies.kinds import policy_kind
from ..core.timegrid import to_raw
from ..errors import UsageError
from ..students.facts import time_grid
from ..teachers.base import guidance_of

if TYPE_CHECKING:
    from ..presets.schema import Preset


@dataclass(frozen=True)
class BatchPlan:
    """Cuts of the global batch.

    There are ``accumulation`` rounds of ``device_batch`` trajectories or samples on each of ``processes``.
    """

    processes: int
    device_batch: int
    accumulation: int

    def __str__(self) -> str:
        parts = f"{self.processes} x {self.device_batch} x {self.accumulation}"
        return (
            f"{self.processes * self.device_batch * self.accumulation} = {parts} (processes x device batch x"
            " accumulation)"
        )


def batch_plan(preset: Preset, processes: int) -> BatchPlan:
    """Derive the accumulation; raises UsageError where the global batch cannot be cut evenly."""
    total, wanted = preset.optimisation.batch_size, preset.optimisation.device_batch_size
    if total % processes:
        raise UsageError(
            f"a batch of {total} cannot be shared by {processes} processes",
            f"choose a multiple: --batch-size {processes * max(1, round(total / processes))}",
        )
    device_batch = total // processes if wanted is None else wanted
    if total % (processes * device_batch):
        raise UsageError(
            f"a batch of {total} is no multiple of {processes} processes x device_batch_size {device_batch}",
            "choose another: --set optimisation.device_batch_size=N",
        )
    if device_batch < least_device_batch(preset):
        distances = preset.imitation.distances
        without = " ".join(f"--set imitation.{name}=0" for name in distances)
        raise UsageError(
            f"imitation.{distances[0]} compares samples of a batch with one another, and a device has one at a time",
            f"give it several: --set optimisation.device_batch_size=N, or leave it out: {without}",
        )
    return BatchPlan(processes, device_batch, total // (processes * device_batch))


def least_device_batch(preset: Preset) -> int:
    """The fewest samples that a device can have at once: distances to data compare them with one another."""
    return 2 if preset.imitation.distances else 1


def imitation_config(preset: Preset) -> ImitationConfig:
    """The constants of a pi-ID step under this preset."""
    imitation, mixes = preset.imitation, "imitation.dropout" in policy_kind(preset.policy.kind).settings
    return ImitationConfig(
        grid=time_grid(preset),
        states=imitation.states,
        window=imitation.window,
        substeps=preset.policy.substeps,
        dropout=imitation.dropout if mixes else 0.0,
        components=preset.policy.components if mixes else 0,
        loss_scale=imitation.loss_scale,
        states_per_query=imitation.states_per_query,
        energy=imitation.energy,
        moments=imitation.moments,
    )


def network_evaluations(preset: Preset) -> int:
    """Network evaluations of one iteration, each of one state of one sample; expected, and rounded.

    The teacher is asked for every state once, and once more where classifier-free guidance acts there
    (:func:`guided_share`).
    """
    asked = preset.imitation.states * (1 + guided_share(preset))
    return student_evaluations(preset) + round(_segments(preset) * asked)


def student_evaluations(preset: Preset) -> int:
    """Evaluations of the student in one iteration.

    A segment takes one for the forward pass, two for the backward pass, and one more where checkpointing computes it
    again. A trajectory has all segments, a sample one.
    """
    return _segments(preset) * (4 if preset.optimisation.gradient_checkpointing else 3)


def guided_share(preset: Preset) -> float:
    """Expected share of the states at which classifier-free guidance acts; where mixing goes on, that after its end.

    One of the states of a segment, chosen at random, is uniform in raw time between its ends, but for the window.
    """
    guidance, grid, config = guidance_of(preset.teacher), time_grid(preset), imitation_config(preset)
    if guidance.scale == 1:
        return 0.0
    if guidance.interval[0] <= 0 and guidance.interval[1] >= 1:
        return 1.0
    low, high = (to_raw(sigma, grid.shift) for sigma in guidance.interval)
    share = 0.0
    for upper, lower in pairwise(grid.edges):
        length = upper - lower
        lower += min(config.window * length / max(1, round(length * config.substeps)), length)
        if upper > lower:
            inside = max(0.0, min(upper, high) - max(lower, low)) / (upper - lower)
        else:
            inside = float(low <= upper <= high)
        # From data, long segments are drawn more often.
        share += inside * (1 / grid.nfe if preset.data_free else length / grid.start)
    return share


def _segments(preset: Preset) -> int:
    """The number of segments in one iteration."""
    return preset.optimisation.batch_size * (preset.policy.nfe if preset.data_free else 1)
